"""The manifest of a run: which images it used.

Up to `MAX_LISTED` images, `manifest.jsonl` has one row per file. Above, `manifest_summary.json`
describes each set, and `manifest.parquet` has the hashes of the files, by which a promotion finds
test images that were trained on.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from trialrun.files import format_json, scratch_directory
from trialrun.images import escape_non_utf8
from trialrun.images.items import encode_labels
from trialrun.images.scanning.scan import DatasetScan, describe_file
from trialrun.images.shards.contents import ShardContents
from trialrun.images.shards.listing import get_name
from trialrun.registry.large_manifest import LARGE_MANIFEST, write_large_manifest
from trialrun.registry.versions import MANIFEST
from trialrun.runs.evaluation.tables import format_csv
from trialrun.runs.training.inputs.data import PreparedSet
from trialrun.tracking import TrackedRun

MAX_LISTED = 100_000  # images in manifest.jsonl, which then has about 20 MB
SUMMARY = "manifest_summary.json"
_SKIPPED = "skipped.csv"
_NUM_NAMES = 3  # first and last names in a summary


def log_manifest(run: TrackedRun, sets: Mapping[str, PreparedSet]) -> str | None:
    """Log the images of the sets by name, and those that were skipped; return a note on it."""
    num_images = sum(len(prepared.scan.images) for prepared in sets.values())
    if num_images <= MAX_LISTED:
        rows = [row for name, prepared in sets.items() for row in _list_rows(name, prepared)]
        run.log_text(MANIFEST, format_json_lines(rows))
        note = None
    else:
        _log_summary(run, {name: prepared.scan for name, prepared in sets.items()})
        note = (
            f"the run records digests and hashes of its {num_images:,} images in {SUMMARY} and "
            f"{LARGE_MANIFEST}, and not their names: there are more than {MAX_LISTED:,}"
        )
    skipped = [
        row
        for name, prepared in sets.items()
        if any(prepared.reasons)
        for row in _list_rows(name, prepared)
        if row["skipped"]
    ]
    if skipped:
        run.log_text(_SKIPPED, format_csv(skipped))
        run.set_tags({"skipped_images": str(len(skipped))})
    return note


def _list_rows(name: str, prepared: PreparedSet) -> Iterator[dict[str, Any]]:
    scan = prepared.scan
    for item, file, reason in zip(scan.images.items, scan.files, prepared.reasons, strict=True):
        yield {
            "set": name,
            "name": item.name,
            **describe_file(item, file, reason),
            "skipped": reason,
            "warning": file.warning,
            **({} if item.group is None else {"group": item.group}),
        }


def format_json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one JSON object per line; bytes of names that are not UTF-8 are escaped."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def _log_summary(run: TrackedRun, scans: Mapping[str, DatasetScan]) -> None:
    summaries = {name: summarize_set(scan, scan.content_digest()) for name, scan in scans.items()}
    run.log_text(SUMMARY, format_json(summaries))
    with scratch_directory() as scratch:
        write_large_manifest(scans, scratch / LARGE_MANIFEST)
        run.log_artifact(scratch / LARGE_MANIFEST)


def summarize_set(scan: DatasetScan, digest: str) -> dict[str, Any]:
    """Return digest, numbers, shards, and the first and last names of a set, as plain values."""
    images = scan.images
    last = [images.items[row] for row in range(max(len(images) - _NUM_NAMES, 0), len(images))]
    first = list(islice(images.items, _NUM_NAMES))
    contents = images.shards
    shards = contents.shards if isinstance(contents, ShardContents) else ()
    return {
        "source": images.source,
        "digest": digest,
        "num_images": len(images),
        "num_unlabelled": int((encode_labels(images.items).codes < 0).sum()),
        "images_by_class": images.count_classes(),
        "first_names": [escape_non_utf8(item.name) for item in first],
        "last_names": [escape_non_utf8(item.name) for item in last],
        "shards": [[get_name(s), s.num_bytes, s.version] for s in shards],
    }
