"""A search as the terminal shows it: a line a trial."""

from trialrun.cli.output import say
from trialrun.cli.progress import Terminal


class SearchTerminal(Terminal):
    """Watches a search and tells people on standard error."""

    def trial(self, text: str) -> None:
        """One line a trial."""
        self._close_bar()
        say(text)
