"""The stop signals that a process has received, and which of them ends it at once."""

from dataclasses import dataclass, field

# `mlflow run` sends its child SIGINT and then SIGTERM; a scheduler may send SIGTERM to torchrun and
# to its ranks, and torchrun passes its own on. Such signals arrive within moments.
_SAME_STOP_SECONDS = 3.0
# `timeout` sends SIGTERM to its child and then to the process group of the child.
_SAME_SIGNAL_SECONDS = 0.3


@dataclass(slots=True)
class Arrivals:
    """When a process was first asked to stop, and when by each signal.

    `is_relayed` means that the parent passes signals on: the same signal may arrive twice.
    """

    is_relayed: bool = False
    started: float | None = None  # `time.monotonic` of the first request to stop
    _first_by_signal: dict[int, float] = field(default_factory=dict)

    @property
    def first_signal(self) -> int | None:
        """The number of the first signal; None if no signal asked for the stop."""
        return next(iter(self._first_by_signal), None)

    def start(self, now: float) -> None:
        """Note a stop that no signal asked for: another rank stops, or the parent is gone."""
        if self.started is None:
            self.started = now

    def add(self, number: int, now: float) -> bool:
        """Note a signal; return whether it is a second one, which ends the process at once."""
        if self.started is None:
            self.started = now
        first = self._first_by_signal.setdefault(number, now)
        if now - self.started > _SAME_STOP_SECONDS:
            return True
        return not self.is_relayed and now - first > _SAME_SIGNAL_SECONDS
