"""An ImageDirectory as Azure ML designer's modules write and read it, with a manifest beside it.

    _meta.yaml       the type, and the names of the other files
    images.lst       one JSON object a line: image_info.file_name, the label, the id
    _schema.json     the columns; `category` is the annotation
    _samples.json    the first three images as previews
    image/           the files, flat, named by class index and number
    manifest.jsonl   ours: where each file came from, its sha256, size and verdict

Image bytes are copied as they are, and are those that were looked at.
"""

import base64
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialrun.errors import InvalidDatasetError
from trialrun.files import create_directory, translate_storage_errors
from trialrun.images.dataset import ImageItem, ImageSet, make_printable
from trialrun.images.decoding.file_io import read_file_with_fingerprint
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.scanning.scan import CHANGED, DatasetScan, FileScan, is_unchanged

Row = dict[str, Any]

_COLUMN = "category"
MANIFEST = "manifest.jsonl"

_META = """type: ImageDirectory
extension: {}
image_list: images.lst
samples: _samples.json
schema: _schema.json
"""
_FOLDER = "image"
_NUM_SAMPLES = 3  # the ancestor's number
_MIME_TYPES = {".jpg": "image/jpeg", ".jpe": "image/jpeg", ".tif": "image/tiff"}


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What came to be written where."""

    folder: str
    num_images: int
    num_skipped: int
    images_by_class: dict[str, int]


def write_image_directory(
    scan: DatasetScan, reasons: Iterable[str], out: Path, *, named: Path | None = None
) -> WriteResult:
    """Write the usable images of a set to `out`; `reasons` holds one an image, empty where usable.

    `named` is what `out` will be called in the end, where it is a draft.

    Raises:
        StorageError: `out` exists or cannot be written.
        InvalidDatasetError: An image is gone or was changed since it was looked at.
    """
    images = scan.images
    with create_directory(out) as draft:
        with translate_storage_errors(draft):
            (draft / _FOLDER).mkdir()
        entries, manifest = _copy_images(scan, reasons, draft)
        with translate_storage_errors(draft):
            _write_lines(draft / "images.lst", entries)
            _write_lines(draft / MANIFEST, manifest)
            (draft / "_meta.yaml").write_text(_META)
            (draft / "_schema.json").write_text(_dump_yaml(_make_schema(images, entries)))
            (draft / "_samples.json").write_text(_dump_yaml(_make_samples(draft, entries)))
    labels = Counter(entry[_COLUMN] for entry in entries if _COLUMN in entry)
    return WriteResult(
        str(named or out),
        len(entries),
        len(manifest) - len(entries),
        {make_printable(name): count for name, count in sorted(labels.items())},
    )


def _copy_images(
    scan: DatasetScan, reasons: Iterable[str], draft: Path
) -> tuple[list[Row], list[Row]]:
    """Copy the usable images; the rows of the image list and of the manifest."""
    images = scan.images
    classes = {name: index for index, name in enumerate(images.classes)}
    entries: list[Row] = []
    manifest: list[Row] = []
    for item, seen, reason in zip(images.items, scan.files, reasons, strict=True):
        name = ""
        if not reason:
            name = _make_file_name(item, classes, len(entries))
            data = _read_scanned_bytes(images, item, seen)
            with translate_storage_errors(draft / name):
                (draft / name).write_bytes(data)
            entries.append(_make_entry(name, item, len(entries)))
        manifest.append(_make_manifest_row(name, item, seen, reason))
    return entries, manifest


def _read_scanned_bytes(images: ImageSet, item: ImageItem, seen: FileScan) -> bytes:
    """What was surveyed and judged: no other bytes may stand under its hash and verdict."""
    try:
        content = read_file_with_fingerprint(images.root, item.name)
        if is_unchanged(content, seen):
            return content.data
        reason = CHANGED
    except UndecodableError as error:
        reason = str(error)
    raise InvalidDatasetError(
        f"{images.source}: {make_printable(item.name)} could be read at first: {reason}",
        "Leave the images alone while they are read, and start again.",
    )


def _make_file_name(item: ImageItem, classes: dict[str, int], number: int) -> str:
    """`image/<class>_<number>.<ending>`, in ASCII whatever the image was called."""
    ending = os.path.splitext(item.name)[1].lower()  # noqa: PTH122 - names may be 200,000
    ending = ending if ending.isascii() else ""  # a list may call an image as it likes
    prefix = "" if item.label is None else f"{classes[item.label]}_"
    return f"{_FOLDER}/{prefix}{number}{ending}"


def _make_entry(name: str, item: ImageItem, number: int) -> Row:
    label = {} if item.label is None else {_COLUMN: item.label}
    return {"image_info": {"file_name": name}, **label, "id": number}


def _make_manifest_row(name: str, item: ImageItem, seen: FileScan, reason: str) -> Row:
    return {
        "file_name": name,
        "source": item.name,
        "label": item.label,
        "sha256": seen.sha256,
        "bytes": seen.num_bytes,
        "width": seen.width,
        "height": seen.height,
        "verdict": classify_image(seen, reason),
        "reason": reason or seen.warning,
    }


def classify_image(seen: FileScan, reason: str) -> str:
    """In one word: good, warned or skipped."""
    if reason:
        return "skipped"
    return "warned" if seen.warning else "good"


def _make_schema(images: ImageSet, entries: list[Row]) -> Row:
    endings = Counter(Path(entry["image_info"]["file_name"]).suffix for entry in entries)
    common = endings.most_common(1)[0][0] if endings else ".png"
    columns = [
        _make_column("image", "Bytes", "bytes", is_feature=True)
        | {
            "properties": {
                "mime_type": _MIME_TYPES.get(common, f"image/{common[1:]}"),
                "image_ref": "image_info",
            }
        },
        _make_column("id", "Numeric", "int64"),
    ]
    if images.classes:
        categories = [{"id": index, "name": name} for index, name in enumerate(images.classes)]
        annotation = {"annotation_type": "COCO_classification", "categories": categories}
        columns.append(_make_column(_COLUMN, "String", "str") | {"properties": annotation})
    return {"columnAttributes": columns}


def _make_column(name: str, kind: str, type_name: str, *, is_feature: bool = False) -> Row:
    return {
        "name": name,
        "type": kind,
        "isFeature": is_feature,
        "elementType": {"typeName": type_name, "isNullable": False},
    }


def _make_samples(folder: Path, entries: list[Row]) -> list[Row]:
    return [
        {
            "image": base64.b64encode(
                (folder / entry["image_info"]["file_name"]).read_bytes()
            ).decode(),
            **{key: entry[key] for key in ("id", _COLUMN) if key in entry},
        }
        for entry in entries[:_NUM_SAMPLES]
    ]


def _write_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _dump_yaml(value: Any) -> str:
    return json.dumps(value, indent=2)
