"""The signals that ask a process to stop."""

import signal

# Ctrl-C, `kill` or a cluster's scheduler, and a closed terminal. Windows has no SIGHUP.
STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),
)
