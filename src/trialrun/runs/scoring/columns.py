"""The columns of a table of scores: Azure's, and those of the best classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from trialrun.errors import InvalidParameterError
from trialrun.images import ImageItem
from trialrun.scoring.labels import LabelRule
from trialrun.scoring.scores import LABEL_COLUMN, ImageScore, probability_columns

PATH_COLUMN, ERROR_COLUMN = "path", "error"

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """An image of the dataset with its score: one row of the table."""

    item: ImageItem
    score: ImageScore


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table; `has_text_ids` says whether any `id` is not a number."""

    classes: tuple[str, ...]
    has_labels: bool
    has_text_ids: bool
    top_k: int = 0
    threshold: float = 0.0  # of the confidence from which the model answers

    def __post_init__(self) -> None:
        if self.top_k > len(self.classes):
            raise InvalidParameterError(
                f"top_k={self.top_k} but the model has {len(self.classes)} classes",
                f"Set top_k={len(self.classes)} or less.",
            )

    def list_types(self) -> dict[str, type]:
        """Return the name and the type of each column, in order."""
        types: dict[str, type] = {PATH_COLUMN: str, "id": str if self.has_text_ids else int}
        if self.has_labels:
            types["category"] = str
        types |= dict.fromkeys(probability_columns(self.classes), float)
        types[LABEL_COLUMN] = str
        for place in range(1, self.top_k + 1):
            types |= {f"Top {place} Label": str, f"Top {place} Probability": float}
        return types | {ERROR_COLUMN: str}

    def build_row(self, scored: ScoredItem) -> list[Cell]:
        """Return the cells of a row; None and empty text if the image was not scored."""
        item, probabilities = scored.item, scored.score.probabilities
        identifier: Cell = str(item.id) if self.has_text_ids else item.id
        cells: list[Cell] = [item.name, identifier]
        cells += [item.label or ""] if self.has_labels else []
        if probabilities is None:
            cells += [None] * len(self.classes)
            cells += ["", *["", None] * self.top_k]
        else:
            values: list[float] = probabilities.astype(np.float64).tolist()
            cells += values
            cells.append(LabelRule(self.classes, self.threshold).choose(probabilities))
            cells += chain.from_iterable(self._rank_classes(values))
        return [*cells, scored.score.error]

    def _rank_classes(self, values: list[float]) -> Iterator[tuple[str, float]]:
        """Yield the best classes and their probabilities; of equal ones the first class first."""
        order = sorted(range(len(values)), key=lambda index: -values[index])
        for index in order[: self.top_k]:
            yield self.classes[index], values[index]
