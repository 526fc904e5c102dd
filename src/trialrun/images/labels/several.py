"""Columns with several labels per image, which a classifier of one class per image cannot learn."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from trialrun.errors import InvalidDatasetError
from trialrun.images.dataset import make_printable

SEVERAL_LABELS_HINT = (
    "One class per image is supported: give one label per image, or another label_column. If each "
    "of these texts is one class, list them with classes=FILE."
)
# Characters that hardly occur in names of classes, and one that does ("crane, bird").
_SEPARATORS = {"|": False, ";": False, ",": True}
_MIN_SHARE = 0.5  # of the cells, or of the texts with a separator
_BINARY_VALUES = frozenset({"0", "1", "0.0", "1.0", "true", "false"})
_MAX_SHOWN = 5


def check_single_labels(num_by_label: Mapping[str, int], source: str) -> None:
    """Check that the texts in a column are one label each; the numbers are those of their cells.

    A text is several labels if a separator divides it into parts that also occur in other texts.
    With | and ; it is enough that most cells have the separator.

    Raises:
        InvalidDatasetError: The column has several labels per image.
    """
    counts = Counter(num_by_label)
    for separator, needs_shared_parts in _SEPARATORS.items():
        joined = {text: _split_parts(text, separator) for text in counts if separator in text}
        joined = {text: parts for text, parts in joined.items() if len(parts) > 1}
        if not joined:
            continue
        num_shared = _count_shared(joined, counts, separator)
        num_cells = sum(counts[text] for text in joined)
        is_usual = num_cells > _MIN_SHARE * counts.total() and not needs_shared_parts
        if is_usual or num_shared >= _MIN_SHARE * len(joined):
            example = make_printable(next(iter(joined)))
            raise InvalidDatasetError(
                f"{source} has several labels per image: {num_cells} of {counts.total()} labels "
                f"are lists with {separator!r}, such as {example}",
                SEVERAL_LABELS_HINT,
            )


def find_indicator_columns(
    columns: Iterable[str], rows: Collection[Mapping[str, Any]]
) -> tuple[str, ...]:
    """Return the columns with only 0 and 1 (one column per class) if there are several."""
    found = tuple(name for name in columns if rows and all(map(_is_binary, _cells(name, rows))))
    return found if len(found) > 1 else ()


def describe_indicator_columns(columns: Collection[str], *, num_rows_with_several: int) -> str:
    """Return what such columns mean, as a note."""
    shown = list(columns)[:_MAX_SHOWN]
    rest = len(columns) - len(shown)
    several = (
        f"{num_rows_with_several} images have several classes, which is not supported"
        if num_rows_with_several
        else "write the name of each image's class into one column label"
    )
    return (
        f"the columns {', '.join(map(make_printable, shown))}{f' and {rest} more' if rest else ''} "
        f"hold 0 or 1 per class: {several}"
    )


def is_positive(value: object) -> bool:
    """Whether a cell of an indicator column says that the image has the class."""
    return str(value).strip().lower() in ("1", "1.0", "true")


def _split_parts(text: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _count_shared(
    joined: Mapping[str, tuple[str, ...]], texts: Iterable[str], separator: str
) -> int:
    """Count the joined texts with parts that all occur in other texts too."""
    occurrences: Counter[str] = Counter()
    for text in texts:
        occurrences.update(set(_split_parts(text, separator)))
    return sum(all(occurrences[part] > 1 for part in set(parts)) for parts in joined.values())


def _cells(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterable[object]:
    return (row.get(name) for row in rows)


def _is_binary(value: object) -> bool:
    return str(value).strip().lower() in _BINARY_VALUES
