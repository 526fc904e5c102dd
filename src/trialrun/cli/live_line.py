"""A line at the end of a terminal that is written again: a title, a bar and a text."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class LiveLine:
    """A progress line on standard error; it is drawn when it is shown, and by no thread."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._started = self._shown = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since `start_clock`."""
        return time.monotonic() - self._started

    def start_clock(self) -> None:
        """Start to count `seconds`."""
        self._started = self._shown = time.monotonic()

    def show_if_due(
        self, title: str, num_done: int, total: int, text: Callable[[], str], interval: float
    ) -> None:
        """Show the line unless it was shown less than `interval` seconds ago."""
        if time.monotonic() - self._shown >= interval:
            self.show(title, num_done, total, text())

    def show(self, title: str, num_done: int, total: int, text: str) -> None:
        """Show the line, in place of the one before."""
        self._shown = time.monotonic()
        if self._progress is None:
            self._progress = _make_progress()
            self._task = self._progress.add_task(title, total=total, completed=num_done, text=text)
            self._progress.start()
            # The terminal of a process that is killed would keep the cursor hidden.
            self._progress.console.show_cursor(True)
            return
        assert self._task is not None
        self._progress.update(
            self._task, description=title, completed=num_done, total=total, text=text
        )
        self._progress.refresh()

    def clear(self) -> None:
        """Remove the line, so that others can be printed in its place."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _make_progress() -> "Progress":
    """Return a progress display that fits the terminal; what does not fit is cut."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
        TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True)),
        TextColumn(
            "{task.fields[text]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        ),
        console=Console(stderr=True),
        auto_refresh=False,
        expand=True,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
