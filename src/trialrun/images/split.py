"""A labelled set cut in two, stratified and seeded, so that the same call cuts it alike again."""

from collections import defaultdict
from hashlib import blake2b

from trialrun.errors import InvalidDatasetError
from trialrun.images.dataset import ImageSet


def stratified_split(
    images: ImageSet, *, second_fraction: float, random_seed: int
) -> tuple[ImageSet, ImageSet]:
    """Two parts with every class in both, the second about `second_fraction` of each class.

    Which image goes where depends on its name and the seed alone, not on the order of listing.

    Raises:
        InvalidDatasetError: A class has one image only.
    """
    by_class: dict[str | None, list[int]] = defaultdict(list)
    for index, item in enumerate(images.items):
        by_class[item.label].append(index)
    second: set[int] = set()
    for label, indices in by_class.items():
        if len(indices) < 2:
            raise InvalidDatasetError(
                f"class {label} has one image only, which cannot be on both sides of a split",
                "Add images to it, or give valid_data.",
            )
        ordered = sorted(indices, key=lambda i: _draw(random_seed, images.items[i].name))
        num_second = min(max(round(len(indices) * second_fraction), 1), len(indices) - 1)
        second.update(ordered[:num_second])
    everything = range(len(images.items))
    return (
        images.subset(i for i in everything if i not in second),
        images.subset(i for i in everything if i in second),
    )


def _draw(random_seed: int, name: str) -> bytes:
    text = f"{random_seed}\0{name}".encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=16).digest()
