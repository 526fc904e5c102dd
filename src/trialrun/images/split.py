"""Stratified, seeded split of a labelled image set in two.

Images of one group stay on one side.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from trialrun.errors import InvalidDatasetError
from trialrun.images.dataset import ImageSet, make_printable
from trialrun.images.items import encode_labels, has_groups, iterate_names

_ClassCounts = Counter[str | None]


def split_stratified(
    images: ImageSet, *, second_fraction: float, random_seed: int
) -> tuple[ImageSet, ImageSet]:
    """Split into two sets with every class in both, about `second_fraction` of each in the second.

    The side of an image depends only on the seed and on its name or its group's name, not on the
    order of the images. With groups, the fraction is approximated as closely as whole groups allow.

    Raises:
        InvalidDatasetError: A class has only one image or group.
    """
    choose = _choose_groups if has_groups(images.items) else _choose_images
    is_second = np.zeros(len(images.items), dtype=np.bool_)
    is_second[choose(images, second_fraction, random_seed)] = True
    return (
        images.subset(np.flatnonzero(~is_second)),
        images.subset(np.flatnonzero(is_second)),
    )


def _choose_images(
    images: ImageSet, second_fraction: float, random_seed: int
) -> NDArray[np.integer]:
    """Choose the indices of the second set by a random order within each class."""
    labels = encode_labels(images.items)
    order = sort_by_hash(images, random_seed)
    by_class = order[np.argsort(labels.codes[order], kind="stable")]
    classes, starts = np.unique(labels.codes[by_class], return_index=True)
    chosen = []
    for code, members in zip(classes, np.split(by_class, starts[1:]), strict=True):
        if len(members) < 2:
            raise _too_few_error(labels.texts[code] if code >= 0 else None, "image")
        chosen.append(members[: _count_second(len(members), second_fraction)])
    return np.concatenate(chosen) if chosen else order


def sort_by_hash(images: ImageSet, random_seed: int) -> NDArray[np.integer]:
    """Return the indices of all images in a random order that their names decide."""
    digests = bytearray()
    for name in iterate_names(images.items):
        digests += _hash_name(random_seed, name)
    high, low = np.frombuffer(digests, dtype=">u8").reshape(-1, 2).T
    return np.lexsort((low, high))


def _choose_groups(images: ImageSet, second_fraction: float, random_seed: int) -> list[int]:
    """Choose the indices of the second set by whole groups.

    Groups are visited in random order; a group is chosen if that brings the classes closer to their
    fractions.
    """
    groups = _collect_groups(images)
    encoded = encode_labels(images.items)
    texts = (*encoded.texts, None)  # code -1 is no label
    labels = [texts[code] for code in encoded.codes.tolist()]
    totals = Counter(labels)
    missing = {label: _count_second(total, second_fraction) for label, total in totals.items()}
    sides: dict[bool, dict[str, _ClassCounts]] = {False: {}, True: {}}  # True is the second set
    for name in sorted(groups, key=lambda name: _hash_name(random_seed, name)):
        counts = Counter(labels[index] for index in groups[name])
        gain = sum(
            abs(missing[label]) - abs(missing[label] - count) for label, count in counts.items()
        )
        if gain > 0:
            for label, count in counts.items():
                missing[label] -= count
        sides[gain > 0][name] = counts
    _cover_classes(sides, totals)
    return [index for name in sides[True] for index in groups[name]]


def _collect_groups(images: ImageSet) -> dict[str, list[int]]:
    """Return image indices by group; an image without a group forms one under its own name."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(images.items):
        groups[f"\0{item.name}" if item.group is None else item.group].append(index)
    return dict(groups)


def _cover_classes(
    sides: dict[bool, dict[str, _ClassCounts]], labels: Iterable[str | None]
) -> None:
    """Move groups until every class is on both sides, one group for each missing class.

    Raises:
        InvalidDatasetError: A class has too few groups.
    """
    num_groups = {
        side: Counter(label for counts in groups.values() for label in counts)
        for side, groups in sides.items()
    }
    for label in sorted(labels, key=str):
        for side in (True, False):
            if num_groups[side][label]:
                continue
            source = sides[not side]
            name = _find_smallest_movable(source, num_groups[not side], label)
            counts = sides[side][name] = source.pop(name)
            num_groups[side].update(counts.keys())
            num_groups[not side].subtract(counts.keys())


def _find_smallest_movable(
    groups: dict[str, _ClassCounts], num_groups: _ClassCounts, label: str | None
) -> str:
    """Return the smallest group with `label` that is not the last one of any class."""
    movable = [
        (counts.total(), name)
        for name, counts in groups.items()
        if label in counts and all(num_groups[other] > 1 for other in counts)
    ]
    if not movable:
        raise _too_few_error(label, "group")
    return min(movable)[1]


def _count_second(num_images: int, fraction: float) -> int:
    return min(max(round(num_images * fraction), 1), num_images - 1)


def _too_few_error(label: str | None, kind: str) -> InvalidDatasetError:
    return InvalidDatasetError(
        f"class {make_printable(str(label))} has too few {kind}s to be on both sides of a split",
        f"Add {kind}s to it, or give valid_data.",
    )


def _hash_name(random_seed: int, name: str) -> bytes:
    text = f"{random_seed}\0{name}".encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=16).digest()
