"""The heartbeat of a run: a tag that says which process works on it, and when it last said so."""

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from trialrun.launchers import is_alive

HEARTBEAT_TAG = "trialrun.heartbeat"
HEARTBEAT_SECONDS = 60.0
_TOLERANCE_SECONDS = 1.0
_PID_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A process, and the time of the heartbeat; all times are in seconds since 1970.

    `created` is when the process started and `booted` when its machine did, both by the clock of
    that time. Their difference does not change if the clock is set. `namespace` distinguishes
    containers of one host.
    """

    host: str
    pid: int
    created: float
    booted: float
    namespace: str
    time: float

    def to_tag(self) -> str:
        """Return the text of the tag."""
        return json.dumps(asdict(self))

    def is_of_this_machine(self) -> bool:
        """Whether the process is, or was, one that this process could see."""
        return (self.host, self.namespace) == (socket.gethostname(), _read_namespace())

    def has_living_process(self) -> bool:
        """Whether the process runs on this machine; its pid may belong to another one now."""
        try:
            process = psutil.Process(self.pid)
            created_after_boot = process.create_time() - psutil.boot_time()
        except psutil.NoSuchProcess:
            return False
        difference = created_after_boot - (self.created - self.booted)
        return abs(difference) <= _TOLERANCE_SECONDS and is_alive(process)


def make_heartbeat() -> Heartbeat:
    """Return the heartbeat of this process."""
    return Heartbeat(
        host=socket.gethostname(),
        pid=os.getpid(),
        created=psutil.Process().create_time(),
        booted=psutil.boot_time(),
        namespace=_read_namespace(),
        time=round(time.time(), 3),
    )


def parse_heartbeat(text: str | None) -> Heartbeat | None:
    """Return the heartbeat in a tag; None without one, or if it is of another version."""
    with suppress(TypeError, ValueError):
        return Heartbeat(**json.loads(text or ""))
    return None


def _read_namespace() -> str:
    """Return the name of this process's space of pids; empty if the system has only one."""
    try:
        return str(_PID_NAMESPACE.readlink())
    except OSError:
        return ""
