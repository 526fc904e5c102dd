"""Checks of an image set's classes before training."""

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable

from trialrun.errors import DataError, InvalidDatasetError, NotLabeledDatasetError
from trialrun.images.dataset import ImageSet, make_printable
from trialrun.images.notes import format_examples

_MAX_SHOWN = 10  # names in an error message; the rest is counted


def check_trainable(images: ImageSet, *, case_sensitive: bool = False) -> list[DataError]:
    """Return the reasons why a network cannot be trained on `images`; empty if it can.

    With `case_sensitive`, classes may differ in case only.
    """
    if not images.classes:
        if images.declared_classes:
            return [
                InvalidDatasetError(
                    f"{images.source}: every class is empty "
                    f"({_format_list(images.declared_classes)}){describe_links(images)}",
                    hint_at_links(images, "Put images into the class folders."),
                )
            ]
        return [
            NotLabeledDatasetError(
                "; ".join(
                    [f"{images.source} has {len(images)} images and no labels", *images.notes]
                ),
                "Sort the images into one sub-folder per class, give metadata.csv a column label "
                "(or name it with label_column), give an ImageDirectory an annotation column, or "
                "find labels in file names with label_pattern.",
            )
        ]
    return [
        *_check_empty(images),
        *_check_similar_names(images, case_sensitive=case_sensitive),
        *_check_number(images),
    ]


def describe_links(images: ImageSet, classes: Collection[str] | None = None) -> str:
    """Return how many links that were not followed there are in `classes`, or in the whole set."""
    links = _select_links(images, classes)
    if not links:
        return ""
    examples = format_examples(links)
    return f"; {len(links)} links that lead out of the folder are not followed, such as {examples}"


def hint_at_links(images: ImageSet, hint: str, classes: Collection[str] | None = None) -> str:
    """Return the hint to follow the links, if there are any, else `hint`."""
    if not _select_links(images, classes):
        return hint
    return f"Set follow_links=true if you trust what they lead to, or remove the links. {hint}"


def _select_links(images: ImageSet, classes: Collection[str] | None) -> list[str]:
    """Return the names of the links out of the folder that are in `classes`, or all of them."""
    if classes is None:
        return list(images.outside_links)
    return [link for link in images.outside_links if link.partition("/")[0] in classes]


def check_same_classes(train: ImageSet, valid: ImageSet) -> list[DataError]:
    """Return an error that lists the classes of only one set, if any."""
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


def _check_empty(images: ImageSet) -> list[DataError]:
    empty = set(images.declared_classes) - set(images.classes)
    if not empty:
        return []
    return [
        InvalidDatasetError(
            f"{images.source}: no images in class {_format_list(empty)}"
            f"{describe_links(images, empty)}",
            hint_at_links(images, "Add images to it, or remove the class.", empty),
        )
    ]


def _check_number(images: ImageSet) -> list[DataError]:
    if len(set(images.classes) | set(images.declared_classes)) > 1:
        return []
    return [
        InvalidDatasetError(
            f"{images.source} has one class only: {_format_list(images.classes)}",
            "A classifier needs at least two classes.",
        )
    ]


def _check_similar_names(images: ImageSet, *, case_sensitive: bool) -> list[DataError]:
    similar: dict[str, list[str]] = defaultdict(list)
    for name in images.classes:
        # Not casefold(): Maße and Masse are different names on every file system.
        key = unicodedata.normalize("NFC", name)
        similar[key if case_sensitive else key.lower()].append(name)
    pairs = [" and ".join(map(ascii, names)) for names in similar.values() if len(names) > 1]
    if not pairs:
        return []
    return [
        InvalidDatasetError(
            f"{images.source}: classes that differ in case or Unicode form only: "
            + ", ".join(pairs),
            "Merge or rename them, as classes=FILE can: some file systems treat these names as the "
            "same. case_sensitive_labels=true accepts names that differ in case.",
        )
    ]


def _format_list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(make_printable(name) for name in ordered[:_MAX_SHOWN])
    rest = len(ordered) - _MAX_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
