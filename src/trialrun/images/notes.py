"""Notes on what was left out of a dataset: counts by kind, with examples."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from trialrun.images.dataset import make_printable

_NUM_EXAMPLES = 3


@dataclass(slots=True)
class LeftOut:
    """Numbers of entries that were left out, by kind, and the first names of each kind."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """Count an entry; `kind` completes "3 ..."."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < _NUM_EXAMPLES:
            shown.append(name)

    def merge(self, other: "LeftOut") -> None:
        """Add the counts and examples of `other`."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            shown = self.examples.setdefault(kind, [])
            shown += other.examples[kind][: _NUM_EXAMPLES - len(shown)]

    def notes(self) -> tuple[str, ...]:
        """Return one note per kind, in alphabetical order."""
        return tuple(
            f"{count} {kind}, for example {format_examples(self.examples[kind])}"
            for kind, count in sorted(self.counts.items())
        )


def format_examples(names: Iterable[str]) -> str:
    """Return up to three names, printable and separated by commas."""
    shown = [make_printable(name) for _, name in zip(range(_NUM_EXAMPLES), names, strict=False)]
    return ", ".join(shown)
