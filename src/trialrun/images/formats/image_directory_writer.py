"""Writer of ImageDirectories as Azure ML designer reads them, with an additional manifest.

    _meta.yaml       the type, and the names of the other files
    images.lst       one JSON object per image: image_info.file_name, the label, the id
    _schema.json     the columns; `category` is the annotation
    _samples.json    the first three images as previews
    image/           the image files, named by class index and number
    manifest.jsonl   not Azure's: each file's source name, sha256, size and verdict

Image files are copied unchanged, after a check that they are still the scanned ones.
"""

import base64
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trialrun.errors import InvalidDatasetError
from trialrun.files import create_directory, translate_storage_errors
from trialrun.images.dataset import ImageItem, ImageSet, make_printable
from trialrun.images.decoding.file_io import read_item
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.scanning.file_scan import FileScan
from trialrun.images.scanning.scan import (
    CHANGED_REASON,
    DatasetScan,
    describe_file,
    is_unchanged,
)

_Row = dict[str, Any]

_COLUMN = "category"
RESERVED_COLUMNS = frozenset({"image_info", "id", _COLUMN})
MANIFEST = "manifest.jsonl"

_META = """type: ImageDirectory
extension: {}
image_list: images.lst
samples: _samples.json
schema: _schema.json
"""
_FOLDER = "image"
_JSON_TYPES = (str, bool, int, float)
_NUM_SAMPLES = 3  # as in Azure ML designer
_MIME_TYPES = {".jpg": "image/jpeg", ".jpe": "image/jpeg", ".tif": "image/tiff"}


@dataclass(frozen=True, slots=True)
class WriteResult:
    """A written ImageDirectory: its folder and its numbers of images."""

    folder: str
    num_images: int
    num_skipped: int
    images_by_class: dict[str, int]


def write_image_directory(
    scan: DatasetScan,
    reasons: Iterable[str],
    out: Path,
    *,
    final_path: Path | None = None,
    columns: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> WriteResult:
    """Write the usable images of a set to `out`.

    `reasons` says for each image why it is not usable, and is empty if it is. `final_path` is where
    the caller moves `out` later. `columns` are further fields of images, by name of the image.

    Raises:
        StorageError: `out` exists or cannot be written.
        InvalidDatasetError: An image was deleted or changed after the scan.
    """
    images = scan.images
    with create_directory(out) as draft:
        with translate_storage_errors(draft):
            (draft / _FOLDER).mkdir()
        entries, manifest = _copy_images(scan, reasons, draft, columns)
        with translate_storage_errors(draft):
            _write_lines(draft / "images.lst", entries)
            _write_lines(draft / MANIFEST, manifest)
            (draft / "_meta.yaml").write_text(_META)
            (draft / "_schema.json").write_text(_dump_json(_make_schema(images, entries)))
            (draft / "_samples.json").write_text(_dump_json(_make_samples(draft, entries)))
    labels = Counter(entry[_COLUMN] for entry in entries if _COLUMN in entry)
    return WriteResult(
        str(final_path or out),
        len(entries),
        len(manifest) - len(entries),
        {make_printable(name): count for name, count in sorted(labels.items())},
    )


def _copy_images(
    scan: DatasetScan,
    reasons: Iterable[str],
    draft: Path,
    columns: Mapping[str, Mapping[str, Any]],
) -> tuple[list[_Row], list[_Row]]:
    """Copy the usable images; return the rows of the image list and of the manifest."""
    images = scan.images
    classes = {name: index for index, name in enumerate(images.classes)}
    entries: list[_Row] = []
    manifest: list[_Row] = []
    for item, file, reason in zip(images.items, scan.files, reasons, strict=True):
        name = ""
        if not reason:
            name = _make_file_name(item, classes, len(entries))
            data = read_scanned_bytes(images, item, file)
            with translate_storage_errors(draft / name):
                (draft / name).write_bytes(data)
            fields = _select_fields(columns.get(item.name, {}))
            entries.append(_make_entry(name, item, len(entries)) | fields)
        manifest.append(_make_manifest_row(name, item, file, reason))
    return entries, manifest


def read_scanned_bytes(images: ImageSet, item: ImageItem, file: FileScan) -> bytes:
    """Read an image file, which must match the hash in its scan.

    Raises:
        InvalidDatasetError: It does not, or cannot be read any more.
    """
    try:
        content = read_item(images, item)
        if is_unchanged(content, file):
            return content.data
        reason = CHANGED_REASON
    except UndecodableError as error:
        reason = str(error)
    raise InvalidDatasetError(
        f"{images.source}: {make_printable(item.name)} was readable at first: {reason}",
        "Do not change the images while they are read, and start again.",
    )


def _make_file_name(item: ImageItem, classes: dict[str, int], number: int) -> str:
    """Return `image/<class index>_<number><suffix>`, always in ASCII."""
    suffix = os.path.splitext(item.name)[1].lower()  # noqa: PTH122 - 200,000 names
    suffix = suffix if suffix.isascii() else ""  # names in a list may have any suffix
    prefix = "" if item.label is None else f"{classes[item.label]}_"
    return f"{_FOLDER}/{prefix}{number}{suffix}"


def _make_entry(name: str, item: ImageItem, number: int) -> _Row:
    label = {} if item.label is None else {_COLUMN: item.label}
    return {"image_info": {"file_name": name}, **label, "id": number}


def _select_fields(columns: Mapping[str, Any]) -> _Row:
    """Return the columns that ImageDirectories do not have themselves, as JSON values."""
    return {
        name: value if isinstance(value, _JSON_TYPES) else str(value)
        for name, value in columns.items()
        if name not in RESERVED_COLUMNS and _is_text_or_number(value)
    }


def _is_text_or_number(value: object) -> bool:
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is not None and not is_nan and not isinstance(value, bytes | dict | list)


def _make_manifest_row(name: str, item: ImageItem, file: FileScan, reason: str) -> _Row:
    return {
        "file_name": name,
        "source": item.name,
        **describe_file(item, file, reason),
        "reason": reason or file.warning,
    }


def _make_schema(images: ImageSet, entries: list[_Row]) -> _Row:
    suffixes = Counter(Path(entry["image_info"]["file_name"]).suffix for entry in entries)
    suffix = suffixes.most_common(1)[0][0] if suffixes else ".png"
    columns = [
        _make_column("image", "Bytes", "bytes", is_feature=True)
        | {
            "properties": {
                "mime_type": _MIME_TYPES.get(suffix, f"image/{suffix[1:]}"),
                "image_ref": "image_info",
            }
        },
        _make_column("id", "Numeric", "int64"),
    ]
    if images.classes:
        categories = [{"id": index, "name": name} for index, name in enumerate(images.classes)]
        annotation = {"annotation_type": "COCO_classification", "categories": categories}
        columns.append(_make_column(_COLUMN, "String", "str") | {"properties": annotation})
    further = dict.fromkeys(name for entry in entries for name in entry)
    columns += [
        _make_column(name, "String", "str", is_nullable=True)
        for name in further
        if name not in RESERVED_COLUMNS
    ]
    return {"columnAttributes": columns}


def _make_column(
    name: str,
    kind: str,
    type_name: str,
    *,
    is_feature: bool = False,
    is_nullable: bool = False,
) -> _Row:
    return {
        "name": name,
        "type": kind,
        "isFeature": is_feature,
        "elementType": {"typeName": type_name, "isNullable": is_nullable},
    }


def _make_samples(folder: Path, entries: list[_Row]) -> list[_Row]:
    return [
        {
            "image": base64.b64encode(
                (folder / entry["image_info"]["file_name"]).read_bytes()
            ).decode(),
            **{key: entry[key] for key in ("id", _COLUMN) if key in entry},
        }
        for entry in entries[:_NUM_SAMPLES]
    ]


def _write_lines(path: Path, rows: list[_Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _dump_json(value: Any) -> str:
    return json.dumps(value, indent=2)
