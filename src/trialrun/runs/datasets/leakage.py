"""Leakage and label conflicts: images that are in both sets or have two labels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trialrun.image_cache import DecodedImages
from trialrun.image_cache.perceptual_hash import find_near_duplicates
from trialrun.images.checks.duplicates import Duplicates, find_duplicates
from trialrun.images.checks.groups import find_shared_groups
from trialrun.images.dataset import ImageSet, escape_non_utf8, make_printable
from trialrun.images.scanning.scan import DatasetScan

_NUM_EXAMPLES = 3  # in a note


@dataclass(frozen=True, slots=True)
class LeakageReport:
    """Exact duplicates, near-duplicate pairs, and groups with images in both sets.

    `num_skipped` images of the second set resemble too many of the first to be compared with all.
    `second_name` is what notes call the second set.
    """

    duplicates: Duplicates
    near: tuple[tuple[str, str], ...] = ()
    groups: tuple[str, ...] = ()
    num_skipped: int = 0
    second_name: str = "validation"

    def counts(self) -> dict[str, int]:
        """Return the number of each, by the names of the tags that record them."""
        return {
            "leaked_images": len(self.duplicates.leaked),
            "conflicting_labels": len(self.duplicates.conflicting),
            "near_duplicates": len(self.near),
            "shared_groups": len(self.groups),
        }

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return {
            **self.counts(),
            **asdict(self.duplicates),
            "near": list(self.near),
            "near_unjudged": self.num_skipped,
            "groups": list(self.groups),
        }

    def notes(self) -> list[str]:
        """Return one sentence per kind of leakage, with examples."""
        conflicting = [
            [f"{name} ({label})" for name, label in group] for group in self.duplicates.conflicting
        ]
        kinds = [
            (self.duplicates.leaked, f"{self.second_name} images are also training images"),
            (conflicting, "images appear under more than one label"),
            (self.near, f"pairs of a training and a {self.second_name} image look alike"),
            ([[group] for group in self.groups], "groups have images in both sets"),
        ]
        notes = [
            f"{len(cases)} {description}: {_format_examples(cases)}"
            for cases, description in kinds
            if cases
        ]
        if self.num_skipped:
            notes.append(
                f"{self.num_skipped} {self.second_name} images resemble too many training images "
                "to be compared with all: some pairs that look alike may be missing"
            )
        return notes


def _format_examples(cases: Sequence[Sequence[str]]) -> str:
    shown = "; ".join(" = ".join(map(make_printable, case)) for case in cases[:_NUM_EXAMPLES])
    return shown + (
        f"; and {len(cases) - _NUM_EXAMPLES} more" if len(cases) > _NUM_EXAMPLES else ""
    )


def find_leakage(scans: Sequence[DatasetScan], decoded: Sequence[DecodedImages]) -> LeakageReport:
    """Find duplicates in one set, or duplicates, similar images and shared groups in two."""
    duplicates = find_duplicates(scans)
    if len(scans) < 2:
        return LeakageReport(duplicates)
    sets = [scan.images for scan in scans]
    similar = find_near_duplicates(decoded[0].perceptual_hashes, decoded[1].perceptual_hashes)
    near = _name_pairs(similar.pairs, scans, sets)
    groups = find_shared_groups(sets[0], sets[1])
    return LeakageReport(duplicates, near, groups, similar.num_skipped)


def _name_pairs(
    pairs: Sequence[tuple[int, int]], scans: Sequence[DatasetScan], sets: Sequence[ImageSet]
) -> tuple[tuple[str, str], ...]:
    """Return the names of each pair, without pairs of identical files."""
    return tuple(
        (escape_non_utf8(sets[0].items[left].name), escape_non_utf8(sets[1].items[right].name))
        for left, right in pairs
        if scans[0].files[left].sha256 != scans[1].files[right].sha256
    )
