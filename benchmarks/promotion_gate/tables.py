"""Tables of simulated shares, by metric; a row holds the extreme share of several simulations."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.promotion_gate.shares import Share
from benchmarks.table import format_table
from trialrun.config.promote import METRICS

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """The share of one simulation of a metric, and a `remark` to show with it."""

    key: Key
    metric: str
    share: Share
    remark: str = ""

    def __str__(self) -> str:
        """Return the share and the remark."""
        return f"{self.share} ({self.remark})" if self.remark else str(self.share)


def tabulate(
    columns: Sequence[str],
    figures: Iterable[Figure],
    is_shown_instead: Callable[[Share, Share], bool] | None = None,
) -> str:
    """Return a table with a row for each key.

    Args:
        columns: The names of the parts of the keys.
        figures: In the order of the rows.
        is_shown_instead: Whether the second of two shares of a row and metric replaces the first.
    """
    rows: dict[Key, dict[str, Figure]] = {}
    for figure in figures:
        row = rows.setdefault(figure.key, {})
        shown = row.get(figure.metric)
        if shown is None or (
            is_shown_instead is not None and is_shown_instead(shown.share, figure.share)
        ):
            row[figure.metric] = figure
    cells = [(*key, *(str(row.get(metric, "")) for metric in METRICS)) for key, row in rows.items()]
    return format_table((*columns, *METRICS), cells)


def is_higher(first: Share, second: Share) -> bool:
    """Whether the second share is higher."""
    return second.value > first.value


def is_lower(first: Share, second: Share) -> bool:
    """Whether the second share is lower."""
    return second.value < first.value
