"""A run as the terminal shows it: a bar while images are read and decoded, a line an epoch."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from trialrun.cli.output import print_status

if TYPE_CHECKING:
    from trialrun.engine.early_stopping import EpochStatus

_PLAIN_STEP = 10_000  # images between two plain lines where there is no terminal


class TerminalProgress:
    """Watches a run and tells people on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._description = ""
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
        """Name the run."""
        print_status(f"Run {run_name} ({run_id})")

    def on_note(self, text: str) -> None:
        """Pass a note on."""
        self._close_bar()
        print_status(f"Note: {text}")

    def on_scan_start(self, description: str, num_images: int) -> None:
        """Begin a bar on a terminal."""
        self._close_bar()
        self._description, self._num_scanned = description, 0
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self._bar = Progress(
            description,
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(description, total=num_images)
        self._bar.start()

    def on_scan_progress(self, num_images: int) -> None:
        """Move the bar on; a plain line now and then where there is none."""
        before, self._num_scanned = self._num_scanned, self._num_scanned + num_images
        if self._bar is not None:
            self._bar.advance(self._task, num_images)
        elif before // _PLAIN_STEP != self._num_scanned // _PLAIN_STEP:
            print_status(f"{self._description}: {self._num_scanned} done")

    def on_epoch_end(self, status: "EpochStatus", epochs: int) -> None:
        """One line an epoch."""
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
    """Watches a search and tells people on standard error."""

    def on_trial_end(self, text: str) -> None:
        """One line a trial."""
        self._close_bar()
        print_status(text)
