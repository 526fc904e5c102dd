"""The process of the server: its socket, its signals, and its end."""

import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from trialrun.config.serve import ServeConfig
from trialrun.errors import InvalidParameterError, RunInterruptedError, summarize_error
from trialrun.serving.http.app import make_app
from trialrun.serving.http.guard import Guard
from trialrun.serving.http.metrics import Metrics
from trialrun.serving.http.service.model import ModelSource, OpenModel
from trialrun.signals import STOP_SIGNALS

Announce = Callable[[OpenModel, str], None]
_BACKLOG = 2048


def run_server(
    source: ModelSource, config: ServeConfig, token: str | None, announce: Announce
) -> None:
    """Serve the model of `source` until a signal stops it, and finish the requests it has taken.

    `announce` is called with the model and the server's address once it takes requests.

    Raises:
        RunInterruptedError: A second signal ended the requests that it had taken.
        TrialrunError: Settings or model cannot be used, or the port is taken.
    """
    metrics = Metrics()
    with _open_socket(config) as listener:
        _log_to_stderr()
        opened = source.open()
        app = make_app(opened, source, config, metrics, has_token=token is not None)
        guard = Guard(app, metrics, token)
        guard.count_paths(frozenset(str(getattr(route, "path", "")) for route in app.routes))
        server = _Server(
            uvicorn.Config(
                guard,
                log_config=None,
                access_log=False,
                lifespan="on",
                ws="none",
                loop="asyncio",
                http="h11",  # limits the size of headers; httptools does not
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=math.ceil(config.stop_seconds),
            ),
            on_start=lambda: announce(opened, _format_address(listener)),
            on_stop=lambda: app.state.service.refuse_probes(),
        )
        server.run(sockets=[listener])
    if server.force_exit:
        error = RunInterruptedError(server.signal_name)
        error.hint = "A second signal ended the requests that it had taken."
        raise error


@contextmanager
def _open_socket(config: ServeConfig) -> Iterator[socket.socket]:
    """Listen on host and port before the model is loaded, so that a taken port is known at once.

    Raises:
        InvalidParameterError: The address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        raise InvalidParameterError(
            f"host={config.host} port={config.port} cannot be used: {summarize_error(error)}",
            "Choose another --port; 0 takes a free one.",
        ) from None
    with listener:
        yield listener


def _format_address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for name in ("trialrun.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(logging.WARNING)


class _Server(uvicorn.Server):
    """A server that the first stop signal ends orderly, and the second at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.signal_name = ""
        self._on_start, self._on_stop = on_start, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then announce it."""
        await super().startup(sockets)
        self._on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the stop signals in the block.

        The command line ends a process that takes long after a signal. It learns of signals from
        the wakeup descriptor, which is therefore unset: a server finishes what it has taken.
        """
        descriptor = signal.set_wakeup_fd(-1)
        handlers = {
            number: signal.signal(number, self.handle_exit)
            for number in STOP_SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, at once if the process is stopping already."""
        self.force_exit = self.should_exit
        self.should_exit = True
        if self.started:
            self._on_stop()
        self.signal_name = self.signal_name or signal.Signals(sig).name
