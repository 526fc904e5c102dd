"""Exact duplicates of images, found by the hash of their files."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from trialrun.images.dataset import escape_non_utf8
from trialrun.images.scanning.scan import DatasetScan

_Location = tuple[int, int]  # index of the set, index of the image in it


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Names of duplicate images, as valid UTF-8.

    `leaked` pairs an image of the first set with its copy in the second. `conflicting` has one
    entry per image with more than one label: the (name, label) pairs of its copies. `num_repeated`
    counts copies within one set and class.
    """

    leaked: tuple[tuple[str, str], ...] = ()
    conflicting: tuple[tuple[tuple[str, str], ...], ...] = ()
    num_repeated: int = 0


def find_duplicates(scans: Sequence[DatasetScan]) -> Duplicates:
    """Find exact duplicates within and between one or two sets; unreadable files are ignored."""
    leaked: list[tuple[str, str]] = []
    conflicting: list[tuple[tuple[str, str], ...]] = []
    num_repeated = 0
    for locations in _find_repeated(scans).values():
        items = [(number, scans[number].images.items[index]) for number, index in locations]
        first_set = [item for number, item in items if number == 0]
        leaked += [
            (escape_non_utf8(first_set[0].name), escape_non_utf8(item.name))
            for number, item in items
            if number == 1 and first_set
        ]
        if len({item.label for _, item in items if item.label is not None}) > 1:
            labelled = (
                (escape_non_utf8(item.name), escape_non_utf8(item.label or "")) for _, item in items
            )
            conflicting.append(tuple(labelled))
        num_repeated += len(items) - len({(number, item.label) for number, item in items})
    return Duplicates(tuple(leaked), tuple(conflicting), num_repeated)


def _find_repeated(scans: Sequence[DatasetScan]) -> dict[str, list[_Location]]:
    """Return the locations of every file hash that has more than one."""
    first_locations: dict[str, _Location] = {}
    repeated: dict[str, list[_Location]] = defaultdict(list)
    for number, scan in enumerate(scans):
        for index, file in enumerate(scan.files):
            if file.reason:
                continue
            location = (number, index)
            if (first := first_locations.setdefault(file.sha256, location)) != location:
                locations = repeated[file.sha256]
                if not locations:
                    locations.append(first)
                locations.append(location)
    return repeated
