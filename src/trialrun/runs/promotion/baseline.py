"""The best earlier champion, which many small losses are measured against."""

from collections.abc import Sequence

from trialrun.registry.history import ROLLBACK, AliasEntry
from trialrun.report.metrics import lower_is_better

CHAMPION_PREFIX = "champion_"  # of the champion's metrics among the figures of an entry


def rank_holders(entries: Sequence[AliasEntry], metric: str) -> list[str]:
    """Return the versions that held the alias, best first, by the sum of the measured differences.

    Each promotion was measured against its champion on the same images, so the differences add up
    across test sets, which the metrics themselves do not. A move without a measured difference
    counts as 0. Of equal versions, the later holder is first.
    """
    scores: dict[str, float] = {}
    for entry in entries:
        if not entry.is_move or entry.version is None:
            continue
        before = scores.setdefault(entry.replaced, 0.0) if entry.replaced else 0.0
        if entry.kind == ROLLBACK:
            score = scores.get(entry.version, before)
        else:
            score = before + _read_difference(entry, metric)
        scores.pop(entry.version, None)  # the latest holder is last
        scores[entry.version] = score
    latest_first = list(reversed(scores))
    return sorted(latest_first, key=lambda version: -scores[version])


def _read_difference(entry: AliasEntry, metric: str) -> float:
    """Return by how much the version was better than the one that it replaced; 0 if unknown."""
    figures = entry.figures
    if metric not in figures or CHAMPION_PREFIX + metric not in figures:
        return 0.0
    difference = figures[metric] - figures[CHAMPION_PREFIX + metric]
    return -difference if lower_is_better(metric) else difference
