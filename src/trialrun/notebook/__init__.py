"""Progress of library calls in a notebook; elsewhere they show none unless asked.

The environment variable TRIALRUN_PROGRESS is 1 to show progress outside notebooks as well, on
standard error as the command line does, and 0 to show none anywhere. `progress` has the callbacks.
"""

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialrun.runs.callbacks import RunCallback
    from trialrun.tuning.callbacks import SearchCallback

_VARIABLE = "TRIALRUN_PROGRESS"


def open_progress() -> "AbstractContextManager[RunCallback]":
    """Return the callback of a library call: in a notebook a bar, elsewhere none unless asked."""
    if not _is_shown():
        return _ignore_progress()
    if is_notebook():
        from trialrun.notebook.progress import NotebookProgress

        return NotebookProgress(make_display())
    from trialrun.cli.progress import TerminalProgress

    return TerminalProgress()


def open_search_progress() -> "AbstractContextManager[SearchCallback]":
    """Return the callback of a search, as `open_progress` does."""
    if not _is_shown():
        return _ignore_progress()
    if is_notebook():
        from trialrun.notebook.progress import NotebookSearchProgress

        return NotebookSearchProgress(make_display())
    from trialrun.cli.progress import SearchProgress

    return SearchProgress()


def _ignore_progress() -> "AbstractContextManager[SearchCallback]":
    from trialrun.tuning.callbacks import NoOpSearchCallback

    return nullcontext(NoOpSearchCallback())


def _is_shown() -> bool:
    choice = os.environ.get(_VARIABLE)
    return choice == "1" or (choice != "0" and is_notebook())


def is_notebook() -> bool:
    """Whether the process is the kernel of a notebook; this imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


def make_display() -> Callable[[str], None]:
    """Return a function that shows HTML below the cell, in place of what it showed before."""
    from IPython.display import HTML, display

    handles: list[Any] = []

    def show(html: str) -> None:
        if handles:
            handles[0].update(HTML(html))
        else:
            handles.append(display(HTML(html), display_id=True))

    return show
