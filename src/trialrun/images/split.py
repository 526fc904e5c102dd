"""Stratified, seeded split of a labelled image set in two.

Images of one group stay on one side.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from hashlib import blake2b

from trialrun.errors import InvalidDatasetError
from trialrun.images.dataset import ImageSet, make_printable

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
    has_groups = any(item.group is not None for item in images.items)
    choose = _choose_groups if has_groups else _choose_images
    second = choose(images, second_fraction, random_seed)
    indices = range(len(images.items))
    return (
        images.subset(index for index in indices if index not in second),
        images.subset(index for index in indices if index in second),
    )


def _choose_images(images: ImageSet, second_fraction: float, random_seed: int) -> set[int]:
    """Choose the indices of the second set by a random order within each class."""
    by_class: dict[str | None, list[int]] = defaultdict(list)
    for index, item in enumerate(images.items):
        by_class[item.label].append(index)
    second: set[int] = set()
    for label, indices in by_class.items():
        if len(indices) < 2:
            raise _too_few_error(label, "image")
        ordered = sorted(indices, key=lambda i: _hash_name(random_seed, images.items[i].name))
        second.update(ordered[: _count_second(len(indices), second_fraction)])
    return second


def _choose_groups(images: ImageSet, second_fraction: float, random_seed: int) -> set[int]:
    """Choose the indices of the second set by whole groups.

    Groups are visited in random order; a group is chosen if that brings the classes closer to their
    fractions.
    """
    groups = _collect_groups(images)
    totals = Counter(item.label for item in images.items)
    missing = {label: _count_second(total, second_fraction) for label, total in totals.items()}
    sides: dict[bool, dict[str, _ClassCounts]] = {False: {}, True: {}}  # True is the second set
    for name in sorted(groups, key=lambda name: _hash_name(random_seed, name)):
        counts = Counter(images.items[index].label for index in groups[name])
        gain = sum(
            abs(missing[label]) - abs(missing[label] - count) for label, count in counts.items()
        )
        if gain > 0:
            for label, count in counts.items():
                missing[label] -= count
        sides[gain > 0][name] = counts
    _cover_classes(sides, totals)
    return {index for name in sides[True] for index in groups[name]}


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
