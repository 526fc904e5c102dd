"""A labelled set cut in two, stratified and seeded, so that the same call cuts it alike again.

Images of one group stay on one side.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from hashlib import blake2b

from trialrun.errors import InvalidDatasetError
from trialrun.images.dataset import ImageSet, make_printable


def split_stratified(
    images: ImageSet, *, second_fraction: float, random_seed: int
) -> tuple[ImageSet, ImageSet]:
    """Two parts with every class in both, the second about `second_fraction` of each class.

    Which image goes where depends on its name (or its group's) and the seed alone, not on the
    order of listing. With groups, the shares are met as nearly as whole groups allow.

    Raises:
        InvalidDatasetError: A class has one image or one group only.
    """
    grouped = any(item.group is not None for item in images.items)
    choose = _second_groups if grouped else _second_images
    second = choose(images, second_fraction, random_seed)
    everything = range(len(images.items))
    return (
        images.subset(i for i in everything if i not in second),
        images.subset(i for i in everything if i in second),
    )


def _second_images(images: ImageSet, second_fraction: float, random_seed: int) -> set[int]:
    by_class: dict[str | None, list[int]] = defaultdict(list)
    for index, item in enumerate(images.items):
        by_class[item.label].append(index)
    second: set[int] = set()
    for label, indices in by_class.items():
        if len(indices) < 2:
            raise _too_few_error(label, "image")
        ordered = sorted(indices, key=lambda i: _draw_group(random_seed, images.items[i].name))
        second.update(ordered[: _compute_share(len(indices), second_fraction)])
    return second


def _second_groups(images: ImageSet, second_fraction: float, random_seed: int) -> set[int]:
    """Groups are offered in an order drawn from the seed, and taken where that nears the shares."""
    groups = _group_positions(images)
    totals = Counter(item.label for item in images.items)
    missing = {label: _compute_share(total, second_fraction) for label, total in totals.items()}
    sides: dict[bool, dict[str, Counter[str | None]]] = {False: {}, True: {}}  # True: the second
    for name in sorted(groups, key=lambda name: _draw_group(random_seed, name)):
        counts = Counter(images.items[index].label for index in groups[name])
        nearer = sum(
            abs(missing[label]) - abs(missing[label] - count) for label, count in counts.items()
        )
        if nearer > 0:
            for label, count in counts.items():
                missing[label] -= count
        sides[nearer > 0][name] = counts
    _cover_classes(sides, totals)
    return {index for name in sides[True] for index in groups[name]}


def _group_positions(images: ImageSet) -> dict[str, list[int]]:
    """Positions by group; an image without one stands for itself, under its own name."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(images.items):
        groups[f"\0{item.name}" if item.group is None else item.group].append(index)
    return dict(groups)


def _cover_classes(
    sides: dict[bool, dict[str, Counter[str | None]]], labels: Iterable[str | None]
) -> None:
    """Move groups until every class is on both sides, one group for each class that is not.

    Raises:
        InvalidDatasetError: That is not enough.
    """
    has = {side: Counter(x for c in groups.values() for x in c) for side, groups in sides.items()}
    for label in sorted(labels, key=str):
        for side in (True, False):
            if has[side][label]:
                continue
            source = sides[not side]
            name = _smallest_to_spare(source, has[not side], label)
            counts = sides[side][name] = source.pop(name)
            has[side].update(counts.keys())
            has[not side].subtract(counts.keys())


def _smallest_to_spare(
    groups: dict[str, Counter[str | None]], has: Counter[str | None], label: str | None
) -> str:
    """The smallest group with `label` after whose going no class of its own is gone."""
    spare = [
        (counts.total(), name)
        for name, counts in groups.items()
        if label in counts and all(has[own] > 1 for own in counts)
    ]
    if not spare:
        raise _too_few_error(label, "group")
    return min(spare)[1]


def _compute_share(num_images: int, fraction: float) -> int:
    return min(max(round(num_images * fraction), 1), num_images - 1)


def _too_few_error(label: str | None, what: str) -> InvalidDatasetError:
    return InvalidDatasetError(
        f"class {make_printable(str(label))} has too few {what}s to be on both sides of a split",
        f"Add {what}s to it, or give valid_data.",
    )


def _draw_group(random_seed: int, name: str) -> bytes:
    text = f"{random_seed}\0{name}".encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=16).digest()
