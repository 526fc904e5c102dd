"""Classes of a dataset that a model does not know."""

from collections.abc import Mapping, Sequence

from trialrun.images import ImageSet, make_printable


def count_unknown_classes(images: ImageSet, classes: Sequence[str]) -> dict[str, int]:
    """Count the images per label that is not among the `classes` of a model."""
    return {name: count for name, count in images.count_classes().items() if name not in classes}


def describe_unknown_classes(unknown_classes: Mapping[str, int]) -> list[str]:
    """Return one line per class that the model does not know."""
    return [
        f"{count} images are of class {make_printable(name)}, which the model does not know"
        for name, count in unknown_classes.items()
    ]
