"""Progress of a run on the terminal: a bar while images are read, one line per epoch."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from trialrun.cli.output import is_quiet, print_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trialrun.engine.early_stopping import EpochStatus

_LINE_INTERVAL = 10_000  # images between two progress lines if stderr is not a terminal


class TerminalProgress:
    """A run callback that prints to standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._activity = ""
        self._num_scanned = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_bar()

    def on_run_start(self, run_name: str, run_id: str) -> None:
        """Print the run's name and ID."""
        print_status(f"Run {run_name} ({run_id})")

    def on_note(self, text: str) -> None:
        """Print a note."""
        self._close_bar()
        print_status(f"Note: {text}")

    def on_scan_start(self, what: str, num_images: int) -> None:
        """Start a progress bar if standard error is a terminal; `what` is its label."""
        self._close_bar()
        self._activity, self._num_scanned = what, 0
        if is_quiet() or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self._bar = Progress(
            what,
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(what, total=num_images)
        self._bar.start()

    def on_scan_progress(self, num_images: int) -> None:
        """Advance the bar; without a bar, print a line every `_LINE_INTERVAL` images."""
        before, self._num_scanned = self._num_scanned, self._num_scanned + num_images
        if self._bar is not None:
            self._bar.advance(self._task, num_images)
        elif before // _LINE_INTERVAL != self._num_scanned // _LINE_INTERVAL:
            print_status(f"{self._activity}: {self._num_scanned} done")

    def on_resume(self, epochs: "Sequence[Mapping[str, float]]", stop_reason: str | None) -> None:
        """Do nothing: a note says where the run continues."""

    def on_epoch_end(self, status: "EpochStatus", epochs: int) -> None:
        """Print the results of an epoch."""
        self._close_bar()
        result = status.result
        print_status(
            f"Epoch {result.epoch}/{epochs}  "
            f"train loss {result.train_loss:.4f}  "
            f"valid loss {result.valid_loss:.4f}  "
            f"valid accuracy {result.validation.accuracy:.4f}  "
            f"{result.train_images_per_second:.0f} images/s"
            + ("  (best)" if status.is_best else "")
        )

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class SearchProgress(TerminalProgress):
    """A search callback that prints to standard error."""

    def on_trial_end(self, text: str) -> None:
        """Print the result of a trial."""
        self._close_bar()
        print_status(text)
