"""Whether labelled sets can be learned from: every complaint about classes, in one place."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from trialrun.errors import DataError, InvalidDatasetError, NotLabeledDatasetError
from trialrun.images.dataset import ImageSet, make_printable

_SHOWN = 10  # names listed before the rest is counted


def check_trainable(images: ImageSet) -> list[DataError]:
    """What keeps `images` from being learned from; an empty list where nothing does."""
    if not images.classes:
        if images.declared_classes:
            return [
                InvalidDatasetError(
                    f"{images.source}: every class is empty "
                    f"({_format_list(images.declared_classes)})",
                    "Put images into the class folders.",
                )
            ]
        return [
            NotLabeledDatasetError(
                "; ".join(
                    [f"{images.source} has {len(images)} images and no labels", *images.notes]
                ),
                "Sort the images into one sub-folder a class, give metadata.csv a column label, "
                "or an ImageDirectory an annotation column.",
            )
        ]
    return [*_empty_classes(images), *_find_lookalikes(images), *_single_class(images)]


def check_same_classes(train: ImageSet, valid: ImageSet) -> list[DataError]:
    """Whether both sets have the same classes; the error lists both differences."""
    only_train = set(train.classes) - set(valid.classes)
    only_valid = set(valid.classes) - set(train.classes)
    if not only_train and not only_valid:
        return []
    parts = []
    if only_valid:
        parts.append(f"only in validation ({valid.source}): {_format_list(only_valid)}")
    if only_train:
        parts.append(f"only in training ({train.source}): {_format_list(only_train)}")
    return [
        InvalidDatasetError(
            "the sets have different classes, " + "; ".join(parts),
            "Give both sets the same classes, each with at least one image.",
        )
    ]


def _empty_classes(images: ImageSet) -> list[DataError]:
    empty = set(images.declared_classes) - set(images.classes)
    if not empty:
        return []
    return [
        InvalidDatasetError(
            f"{images.source}: no images in class {_format_list(empty)}",
            "Add images to it, or remove the class.",
        )
    ]


def _single_class(images: ImageSet) -> list[DataError]:
    if len(set(images.classes) | set(images.declared_classes)) > 1:
        return []
    return [
        InvalidDatasetError(
            f"{images.source} has one class only: {_format_list(images.classes)}",
            "A classifier needs two classes or more.",
        )
    ]


def _find_lookalikes(images: ImageSet) -> list[DataError]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in images.classes:
        alike[unicodedata.normalize("NFC", name).lower()].append(name)  # Maße is not Masse
    pairs = [" and ".join(map(ascii, names)) for names in alike.values() if len(names) > 1]
    if not pairs:
        return []
    return [
        InvalidDatasetError(
            f"{images.source}: classes that differ in case or Unicode form only: "
            + ", ".join(pairs),
            "Merge or rename them: some file systems cannot tell them apart.",
        )
    ]


def _format_list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(make_printable(name) for name in ordered[:_SHOWN])
    rest = len(ordered) - _SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
