"""The same image twice, by the hash of its bytes: in both sets, or under two labels."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from trialrun.images.dataset import escape_non_utf8
from trialrun.images.scanning.scan import DatasetScan

Place = tuple[int, int]  # the set's number, and the image's place in it


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Names of images, escape_non_utf8; a pair or a group an entry.

    `leaked` pairs an image of the first set with the same one in the second; `conflicting` groups
    the names, with their labels, under which one image is to be found; `num_repeated` counts
    copies within one set and class.
    """

    leaked: tuple[tuple[str, str], ...] = ()
    conflicting: tuple[tuple[tuple[str, str], ...], ...] = ()
    num_repeated: int = 0


def find_duplicates(scans: Sequence[DatasetScan]) -> Duplicates:
    """Exact duplicates within and between one or two sets; unreadable files do not count."""
    leaked: list[tuple[str, str]] = []
    conflicting: list[tuple[tuple[str, str], ...]] = []
    num_repeated = 0
    for places in _group_by_content(scans).values():
        items = [(number, scans[number].images.items[index]) for number, index in places]
        firsts = [item for number, item in items if number == 0]
        leaked += [
            (escape_non_utf8(firsts[0].name), escape_non_utf8(item.name))
            for number, item in items
            if number == 1 and firsts
        ]
        if len({item.label for _, item in items if item.label is not None}) > 1:
            named = (
                (escape_non_utf8(item.name), escape_non_utf8(item.label or "")) for _, item in items
            )
            conflicting.append(tuple(named))
        num_repeated += len(items) - len({(number, item.label) for number, item in items})
    return Duplicates(tuple(leaked), tuple(conflicting), num_repeated)


def _group_by_content(scans: Sequence[DatasetScan]) -> dict[str, list[Place]]:
    """Where each content lies that lies in more than one place."""
    once: dict[str, Place] = {}
    more: dict[str, list[Place]] = defaultdict(list)
    for number, scan in enumerate(scans):
        for index, seen in enumerate(scan.files):
            if seen.reason:
                continue
            if (first := once.setdefault(seen.sha256, (number, index))) != (number, index):
                places = more[seen.sha256]
                if not places:
                    places.append(first)
                places.append((number, index))
    return more
