"""Callbacks for notebooks: a bar with its text, above the newest epochs or trials.

The bar is HTML that IPython displays and updates. Bars of rich and tqdm need ipywidgets there.
"""

import threading
import time
from collections.abc import Callable, Sequence
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trialrun.report.html_tables import format_cell, render_table
from trialrun.tuning.callbacks import NoOpSearchCallback

if TYPE_CHECKING:
    from trialrun.engine.early_stopping import EpochStatus
    from trialrun.runs.callbacks import BatchProgress
    from trialrun.tuning.callbacks import TrialCounts, TrialReport

_UPDATE_SECONDS = 0.5  # between two updates; each sends some kB to the browser
_MAX_ROWS = 20  # the newest epochs or trials; the tracking server has all
_EPOCH_HEADING = ("epoch", "train loss", "valid loss", "accuracy", "images/s", "seconds", "")


class NotebookProgress(NoOpSearchCallback):
    """A run callback that shows HTML; `show` replaces what it showed before.

    Threads that send records report notes too. Only the thread of the call draws, because the
    output of another thread may appear below another cell.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._thread = threading.get_ident()
        self._notes: list[str] = []
        self._heading: Sequence[str] = ()
        self._rows: list[Sequence[object]] = []
        self._bar = ""
        self._scan = ("", 0, 0)
        self._drawn = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar = ""
        self._draw()

    @property
    def batch_interval(self) -> float | None:
        """Seconds between two updates within an epoch."""
        return _UPDATE_SECONDS

    def on_note(self, text: str) -> None:
        """Show a note below the bar."""
        self._notes.append(text)
        self._draw()

    def on_scan_start(self, description: str, num_images: int) -> None:
        """Start the bar of a pass; it appears if the pass takes longer than an update."""
        self._scan = (description, 0, num_images)
        self._drawn = time.monotonic()

    def on_scan_progress(self, num_images: int) -> None:
        """Advance the bar of the pass."""
        description, num_done, total = self._scan
        self._scan = (description, num_done + num_images, total)
        if time.monotonic() - self._drawn >= _UPDATE_SECONDS:
            self._draw_bar(description, num_done + num_images, total, f"of {total} images")

    def on_batch(self, progress: "BatchProgress") -> None:
        """Show how far the epoch is."""
        title = f"Epoch {progress.epoch}/{progress.epochs}"
        self._draw_bar(title, progress.num_done, progress.num_images, _describe_batch(progress))

    def on_epoch_end(self, status: "EpochStatus", epochs: int) -> None:
        """Add a row with the results of the epoch."""
        result = status.result
        numbers = (
            result.train_loss,
            result.valid_loss,
            result.validation.accuracy,
            result.train_images_per_second,
            result.epoch_seconds,
        )
        title, mark = f"{result.epoch}/{epochs}", "best" if status.is_best else ""
        self._add_row(_EPOCH_HEADING, (title, *numbers, mark))

    def _add_row(self, heading: Sequence[str], row: Sequence[object]) -> None:
        self._heading = heading
        self._rows = [*self._rows, row][-_MAX_ROWS:]
        self._draw()

    def _draw_bar(self, title: str, num_done: int, total: int, text: str) -> None:
        bar = f'<progress value="{num_done}" max="{max(total, 1)}"></progress>'
        self._bar = f"<div>{escape(title)} {bar} {escape(text)}</div>"
        self._draw()

    def _draw(self) -> None:
        if threading.get_ident() != self._thread:
            return
        self._drawn = time.monotonic()
        table = render_table("", self._rows, heading=self._heading) if self._rows else ""
        notes = "".join(f"<div>Note: {escape(note)}</div>" for note in list(self._notes))
        if html := self._bar + table + notes:
            self._show(html)


class NotebookSearchProgress(NotebookProgress):
    """A search callback that shows HTML: the trials instead of the epochs."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(show)
        self._counts: TrialCounts | None = None

    def on_trials(self, counts: "TrialCounts") -> None:
        """Show how many trials are done."""
        if counts != self._counts:
            self._counts = counts
            self._draw_trials("")

    def on_batch(self, progress: "BatchProgress") -> None:
        """Show how far the trial is that this process trains."""
        self._draw_trials(f"epoch {progress.epoch}/{progress.epochs}, {_describe_batch(progress)}")

    def on_epoch_end(self, status: "EpochStatus", epochs: int) -> None:
        """Do nothing: the table shows trials."""

    def on_trial_end(self, report: "TrialReport") -> None:
        """Add a row with the objectives and settings of the trial."""
        mark = report.problem or ("best" if report.is_best else "")
        cells = (format_cell(report.objectives), format_cell(report.settings))
        self._add_row(("trial", "objectives", "settings", ""), (report.number, *cells, mark))

    def _draw_trials(self, text: str) -> None:
        if (counts := self._counts) is not None:
            title = f"Trials {counts.num_done}/{counts.num_trials}"
            self._draw_bar(title, counts.num_done, counts.num_trials, text)


def _describe_batch(progress: "BatchProgress") -> str:
    left = f"{progress.seconds_left:.0f} s left, run {progress.run_seconds_left:.0f} s"
    if not progress.is_training:
        return f"validation, {left}"
    loss = "" if progress.loss is None else f"loss {progress.loss:.4g}, "
    return f"{progress.images_per_second:.0f} images/s, {loss}{left}"
