"""Tar shards in WebDataset's layout: the files of one image follow each other and share a key.

The key is the name up to the first dot of its last part. The image's label is in a file `.cls`, or
the field `label` of a file `.json`, which may also have its `name` and `group`.
"""

import json
import os
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from trialrun.config.data import DataConfig
from trialrun.errors import InvalidDatasetError, summarize_error
from trialrun.images.scanning.walk import is_image_name, is_system_name
from trialrun.images.shards.columns import (
    ColumnNames,
    ShardColumns,
    ShardRows,
    cell_to_text,
    choose_columns,
    make_damage_error,
)

LABEL_ENDING, JSON_ENDING = "cls", "json"
NAME_FIELD, LABEL_FIELD, GROUP_FIELD = "name", "label", "group"

_BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_MAX_TEXT_BYTES = 1 << 20  # of a label file
_NUM_PEEKED = 16  # keys of a tar


@dataclass(slots=True)
class _Sample:
    """The files of one key that were read so far; `image` is the name, offset and size of one."""

    key: str
    image: tuple[str, int, int] | None = None
    label: str | None = None
    fields: dict[str, Any] | None = None


def read_tar_rows(path: Path, address: str, columns: ColumnNames) -> ShardRows:
    """Read names, labels and places of the images in a tar, without their bytes.

    Raises:
        InvalidDatasetError: It is compressed, damaged or truncated, or has a key twice.
        OSError: It cannot be read.
    """
    found = ShardColumns()
    seen: set[str] = set()
    for sample in _iterate_samples(path, address, found):
        if sample.key in seen:
            raise make_damage_error(
                address, f"has the key {sample.key} twice", "Give each image a key of its own."
            )
        seen.add(sample.key)
        if sample.image is None:
            found.left_out.add("keys without an image in shards (ignored)", sample.key)
            continue
        _add_sample(sample, found, address, columns)
    return found.build()


def read_ranges(
    path: Path, address: str, offsets: Sequence[int], sizes: Sequence[int]
) -> Iterator[bytes]:
    """Yield the contents at places of a tar.

    Raises:
        InvalidDatasetError: It is truncated.
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for offset, size in zip(offsets, sizes, strict=True):
            data = os.pread(descriptor, size, offset)
            if len(data) < size:
                raise make_damage_error(address, "is truncated")
            yield data
    finally:
        os.close(descriptor)


def has_labels(path: Path, config: DataConfig) -> bool:
    """Whether one of the first images in a tar has a label beside it, as WebDataset's have.

    Other tars, with sidecar files of another kind too, are archives of class folders.
    """
    columns = choose_columns(config, None)
    found = ShardColumns()
    try:
        for sample in islice(_iterate_samples(path, str(path), found), _NUM_PEEKED):
            if sample.image is not None:
                _add_sample(sample, found, str(path), columns)
    except (OSError, InvalidDatasetError):
        return False
    return any(label is not None for label in found.labels)


def _add_sample(sample: _Sample, found: ShardColumns, address: str, columns: ColumnNames) -> None:
    assert sample.image is not None
    name, offset, num_bytes = sample.image
    fields, location = sample.fields or {}, f"{address}: {sample.key}"
    label = cell_to_text(fields.get(columns.label or LABEL_FIELD), location)
    if label is None and columns.label is None:
        label = sample.label
    group = cell_to_text(fields.get(columns.group), location) if columns.group else None
    listed = fields.get(columns.file or NAME_FIELD)
    name = listed if isinstance(listed, str) and listed.strip() else name
    found.add(name, label, group, offset=offset, num_bytes=num_bytes)


def _iterate_samples(path: Path, address: str, found: ShardColumns) -> Iterator[_Sample]:
    sample: _Sample | None = None
    with path.open("rb") as file:
        for member in _iterate_members(path, address):
            name = posixpath.normpath(member.name)
            if is_system_name(posixpath.basename(name)) or member.isdir():
                continue
            if not member.isreg():
                found.left_out.add("links or devices in shards (ignored)", name)
                continue
            key, ending = _split_key(name)
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key)
            _add_file(sample, name, ending, member, file.fileno(), address, found)
    if sample is not None:
        yield sample


def _split_key(name: str) -> tuple[str, str]:
    """Return the key and the ending of a name; the ending is in lower case, without a dot."""
    folder, base = posixpath.split(name)
    stem, _, ending = base.partition(".")
    return posixpath.join(folder, stem), ending.lower()


def _add_file(
    sample: _Sample,
    name: str,
    ending: str,
    member: tarfile.TarInfo,
    descriptor: int,
    address: str,
    found: ShardColumns,
) -> None:
    if ending in (LABEL_ENDING, JSON_ENDING):
        text = _read_text(member, descriptor, address)
        if ending == LABEL_ENDING:
            sample.label = cell_to_text(text, f"{address}: {name}")
        else:
            sample.fields = _parse_fields(text, f"{address}: {name}")
    elif not is_image_name(f"x.{ending}"):
        found.left_out.add("files in shards that are no image and no label (ignored)", name)
    elif sample.image is None:
        sample.image = (name, member.offset_data, member.size)
    else:
        found.left_out.add("further images of a key in shards (ignored)", name)


def _read_text(member: tarfile.TarInfo, descriptor: int, address: str) -> str:
    if member.size > _MAX_TEXT_BYTES:
        raise make_damage_error(address, f"has a label of {member.size:,} bytes: {member.name}")
    data = os.pread(descriptor, member.size, member.offset_data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise make_damage_error(address, f"has {member.name}, which is not UTF-8") from None


def _parse_fields(text: str, location: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise make_damage_error(location, f"is not JSON: {summarize_error(error)}") from None
    return fields if isinstance(fields, dict) else {}


def _iterate_members(path: Path, address: str) -> Iterator[tarfile.TarInfo]:
    """Yield the entries of a tar, and check that it is complete."""
    with path.open("rb") as file:
        if file.read(len(_GZIP)) == _GZIP:
            raise make_damage_error(
                address, "is compressed", "Unpack it with gunzip: images are read at their places."
            )
    try:
        with tarfile.open(path, "r:", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # else all entries stay
                yield member
            end = tar.offset
    except tarfile.TarError as error:
        raise make_damage_error(address, f"is damaged or truncated: {error}") from error
    _check_end(path, address, end)


def _check_end(path: Path, address: str, end: int) -> None:
    """Check that a tar ends with empty blocks: tarfile takes any damage for the end."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(_BLOCK_BYTES) != bytes(_BLOCK_BYTES):
            raise make_damage_error(address, "is damaged or truncated: it has no end")
        while rest := file.read(_CHUNK_BYTES):
            if rest.count(0) < len(rest):
                raise make_damage_error(
                    address,
                    "has data behind its end",
                    "Tars that were joined with cat have an end each: give them as separate files.",
                )
