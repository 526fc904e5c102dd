"""Results of processes, one JSON object per line of a file, so that a benchmark can go on later."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One process: the accuracies by seconds since its start, and its seconds in total."""

    set: str
    trainer: str
    version: str
    seed: int
    threads: int
    points: tuple[tuple[float, float], ...]  # seconds, accuracy
    seconds: float
    date: str

    def find_seconds(self, accuracy: float) -> float | None:
        """Return the seconds at which `accuracy` was first reached, or None."""
        return next((at for at, found in self.points if found >= accuracy), None)


def read_results(file: Path) -> list[Result]:
    """Return the results of a file; none if it does not exist."""
    if not file.exists():
        return []
    return [_parse(json.loads(line)) for line in file.read_text().splitlines()]


def append_result(file: Path, result: Result) -> None:
    """Write a result as the last line."""
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(result)) + "\n")


def select(results: Iterable[Result], set_name: str, trainer: str) -> Sequence[Result]:
    """Return a trainer's results on a set, by seed."""
    found = (r for r in results if r.set == set_name and r.trainer == trainer)
    return sorted(found, key=lambda result: result.seed)


def _parse(values: dict[str, object]) -> Result:
    points = values.pop("points")
    assert isinstance(points, list)
    return Result(**values, points=tuple((at, found) for at, found in points))  # type: ignore[arg-type]
