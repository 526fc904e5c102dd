"""Progress of a run: a line that is written again on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trialrun.cli.epoch_table import format_epoch, format_heading, format_loss
from trialrun.cli.live_line import LiveLine
from trialrun.cli.output import is_quiet, print_status
from trialrun.cli.terminal import format_duration, is_live
from trialrun.cli.trial_table import TrialTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trialrun.engine.early_stopping import EpochStatus
    from trialrun.runs.callbacks import BatchProgress
    from trialrun.tuning.callbacks import TrialCounts, TrialReport

_LINE_INTERVAL = 10_000  # images between two progress lines if stderr is not a terminal
_LIVE_SECONDS = 0.5  # between two updates of the line; each takes about 1 ms
_PLAIN_SECONDS = 300.0  # between two lines within an epoch if stderr is not a terminal


class TerminalProgress:
    """A run callback that prints to standard error.

    Threads that send records print notes too; a lock keeps them out of the progress line.
    """

    def __init__(self) -> None:
        self._is_live = is_live(sys.stderr) and not is_quiet()
        self._line = LiveLine()
        self._lock = threading.RLock()
        self._activity = ""
        self._num_images = self._num_scanned = 0
        self._has_heading = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._line.clear()

    @property
    def batch_interval(self) -> float | None:
        """Seconds between two updates within an epoch."""
        if is_quiet():
            return None
        return _LIVE_SECONDS if self._is_live else _PLAIN_SECONDS

    def on_run_start(self, run_name: str, run_id: str) -> None:
        """Print the run's name and ID."""
        self._print(f"Run {run_name} ({run_id})")

    def on_note(self, text: str) -> None:
        """Print a note."""
        self._print(f"Note: {text}")

    def on_scan_start(self, what: str, num_images: int) -> None:
        """Start a progress line if standard error is a terminal; `what` is its label."""
        with self._lock:
            self._line.clear()
            self._activity, self._num_images, self._num_scanned = what, num_images, 0
            self._line.start_clock()

    def on_scan_progress(self, num_images: int) -> None:
        """Advance the line; elsewhere print a line every `_LINE_INTERVAL` images."""
        before, self._num_scanned = self._num_scanned, self._num_scanned + num_images
        if self._is_live:
            with self._lock:
                self._line.show_if_due(
                    self._activity,
                    self._num_scanned,
                    self._num_images,
                    lambda: f"{self._num_scanned}/{self._num_images}{self._format_rest()}",
                    _LIVE_SECONDS,
                )
        elif before // _LINE_INTERVAL != self._num_scanned // _LINE_INTERVAL:
            print_status(f"{self._activity}: {self._num_scanned} done")

    def _format_rest(self) -> str:
        seconds = self._line.seconds * (self._num_images / max(self._num_scanned, 1) - 1)
        return f"  {format_duration(max(seconds, 0))} left"

    def on_resume(self, epochs: "Sequence[Mapping[str, float]]", stop_reason: str | None) -> None:
        """Do nothing: a note says where the run continues."""

    def on_batch(self, progress: "BatchProgress") -> None:
        """Show how far the epoch is."""
        title = f"Epoch {progress.epoch}/{progress.epochs}"
        if not self._is_live:
            share = f"{progress.num_done / progress.num_images:.0%}"
            self._print(f"{title}: {share}  {format_batch(progress)}")
            return
        with self._lock:
            self._line.show(title, progress.num_done, progress.num_images, format_batch(progress))

    def on_epoch_end(self, status: "EpochStatus", epochs: int) -> None:
        """Print the results of an epoch, with a heading above the first one."""
        heading = [] if self._has_heading else [format_heading(epochs)]
        self._has_heading = True
        self._print(*heading, format_epoch(status, epochs))

    def _print(self, *lines: str) -> None:
        with self._lock:
            self._line.clear()
            for line in lines:
                print_status(line)


def format_batch(progress: "BatchProgress") -> str:
    """Return speed, loss and time left of an epoch; the second time is that of the run."""
    left = format_duration(progress.seconds_left)
    if progress.epoch < progress.epochs:
        left += f" left, run {format_duration(progress.run_seconds_left)}"
    else:
        left += " left"
    if not progress.is_training:
        return f"validation  {left}"
    loss = "" if progress.loss is None else f"loss {format_loss(progress.loss)}  "
    return f"{progress.images_per_second:.0f} images/s  {loss}{left}"


class SearchProgress(TerminalProgress):
    """A search callback that prints to standard error."""

    def __init__(self) -> None:
        super().__init__()
        self._table = TrialTable()
        self._started = time.monotonic()
        self._counts: TrialCounts | None = None
        self._num_before: int | None = None  # trials of earlier processes

    def on_trials(self, counts: "TrialCounts") -> None:
        """Show how many trials are done."""
        if self._num_before is None:
            self._num_before = counts.num_done
        self._counts = counts
        if self._is_live:
            self._show(self._format_time_left(counts))

    def on_batch(self, progress: "BatchProgress") -> None:
        """Show how far the trial is that this process trains."""
        if self._is_live:
            share = f"{progress.num_done / progress.num_images:.0%}"
            self._show(
                f"epoch {progress.epoch}/{progress.epochs} {share}  {format_batch(progress)}"
            )

    def _show(self, text: str) -> None:
        counts = self._counts
        if counts is not None:
            title = f"Trials {counts.num_done}/{counts.num_trials}"
            with self._lock:
                self._line.show(title, counts.num_done, counts.num_trials, text)

    def _format_time_left(self, counts: "TrialCounts") -> str:
        seconds = time.monotonic() - self._started
        text = f"{format_duration(seconds)} elapsed"
        num_done = counts.num_done - (self._num_before or 0)
        if num_done > 0:
            left = seconds / num_done * (counts.num_trials - counts.num_done)
            text += f", about {format_duration(max(left, 0))} left"
        return text

    def on_trial_end(self, report: "TrialReport") -> None:
        """Print the result of a trial, with a heading above the first one."""
        self._print(*self._table.format_trial(report))
