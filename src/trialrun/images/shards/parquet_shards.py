"""Parquet shards in Hugging Face's layout: a column of images and, usually, one of labels.

An image is a struct of `bytes` and `path`, or bytes. Labels are text, or numbers whose names the
file's metadata list (ClassLabel).
"""

import json
import posixpath
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trialrun.errors import InvalidDatasetError, InvalidParameterError, summarize_error
from trialrun.images.dataset import escape_non_utf8, leaves_root
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.items import encode_texts
from trialrun.images.shards.columns import (
    ColumnNames,
    ShardRows,
    cell_to_text,
    make_damage_error,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

IMAGE_COLUMN, BYTES_FIELD, PATH_FIELD = "image", "bytes", "path"
_IMAGE_COLUMNS = (IMAGE_COLUMN, "img")
_LABEL_COLUMNS = ("label", "labels")
HUB_METADATA = b"huggingface"
_CLASS_TYPE = "ClassLabel"
# Names that are empty, absolute, have a folder `.` or `..`, a slash at the end, or two in a row.
_UNCLEAN_NAME = r"^[/ ]*$|^/|/$|//|(^|/)\.{1,2}(/|$)|\x00"
_NO_BYTES_REASON = "the row has no bytes of an image, but the path of a file"
_BATCH_ROWS = 256  # that are read at once
_KEPT_BYTES = 256 * 10**6  # of row groups that were read


def read_parquet_rows(path: Path, address: str, columns: ColumnNames) -> ShardRows:
    """Read names, labels and rows of the images in a Parquet file, without their bytes.

    Raises:
        InvalidDatasetError: It is damaged, or has no column of images.
        InvalidParameterError: A column that a setting names does not exist.
        OSError: It cannot be read.
    """
    with _open_parquet(path, address) as file:
        schema = file.schema_arrow
        image = find_image_column(schema, address)
        label = _find_label_column(schema, columns.label, image)
        _check_columns(columns, schema, address)
        names = columns.file or _find_path_column(schema, image)
        wanted = [name for name in (names, label, columns.group) if name is not None]
        table = file.read(columns=wanted, use_threads=False)
        num_rows = file.metadata.num_rows
    classes = _find_classes(schema, label)
    notes = () if label else (f"no column {_LABEL_COLUMNS[0]} in shards, but {schema.names}",)
    return ShardRows(
        _read_names(table, columns.file, image, names, num_rows),
        _read_texts(table, label, partial(_read_label, classes=classes), address, num_rows),
        _read_texts(table, columns.group, cell_to_text, address, num_rows),
        np.arange(num_rows),
        np.zeros(num_rows, dtype=np.int64),
        classes,
        notes,
    )


def read_images(path: Path, address: str, rows: Sequence[int]) -> Iterator[bytes | str]:
    """Yield the bytes of the images in increasing rows, or why a row has none.

    Raises:
        InvalidDatasetError: The file is damaged.
        OSError: It cannot be read.
    """
    import pyarrow as pa
    from pyarrow import compute

    waiting = deque(rows)
    first_row = 0
    with _open_parquet(path, address) as file:
        column = find_image_column(file.schema_arrow, address)
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[column], use_threads=False):
            images = batch.column(0)
            if pa.types.is_struct(images.type):
                images = compute.struct_field(images, BYTES_FIELD)
            while waiting and waiting[0] < first_row + len(images):
                content = images[waiting.popleft() - first_row].as_py()
                yield _NO_BYTES_REASON if content is None else content
            first_row += len(images)


def find_image_column(schema: "pa.Schema", address: str) -> str:
    """Return the name of the column of images.

    Raises:
        InvalidDatasetError: There is none, or it is not known which one is meant.
    """
    found = [field.name for field in schema if _has_bytes(field.type)]
    named = [name for name in _IMAGE_COLUMNS if name in found] or found
    if len(named) == 1 or (named and named[0] == IMAGE_COLUMN):
        return named[0]
    reason = f"has no column with the bytes of images, but {schema.names}"
    if named:
        reason = f"has several columns with bytes: {named}"
    raise make_damage_error(
        address,
        reason,
        "Name one column image, with bytes or structs of bytes and path.",
    )


def has_images(path: Path) -> bool:
    """Whether a Parquet file has a column of images."""
    try:
        with _open_parquet(path, str(path)) as file:
            return bool(find_image_column(file.schema_arrow, str(path)))
    except (OSError, InvalidDatasetError):
        return False


def _has_bytes(column: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_struct(column):
        return any(f.name == BYTES_FIELD and _has_bytes(f.type) for f in column)
    return bool(pa.types.is_binary(column) or pa.types.is_large_binary(column))


def _check_columns(columns: ColumnNames, schema: "pa.Schema", address: str) -> None:
    for setting, name in (
        ("label_column", columns.label),
        ("file_column", columns.file),
        ("group_column", columns.group),
    ):
        if name is not None and name not in schema.names:
            raise InvalidParameterError(
                f"{setting}={name} is not in {address}", f"Its columns are {schema.names}."
            )


def _find_label_column(schema: "pa.Schema", named: str | None, image: str) -> str | None:
    """Return the named column, `label` or `labels`, or else the only one with class names."""
    if named is not None:
        return named
    if usual := [name for name in _LABEL_COLUMNS if name in schema.names]:
        return usual[0]
    listed = [name for name in schema.names if name != image and _find_classes(schema, name)]
    return listed[0] if len(listed) == 1 else None


def _find_path_column(schema: "pa.Schema", image: str) -> str | None:
    import pyarrow as pa

    column = schema.field(image).type
    if pa.types.is_struct(column) and any(f.name == PATH_FIELD for f in column):
        return f"{image}.{PATH_FIELD}"
    return None


def _find_classes(schema: "pa.Schema", label: str | None) -> tuple[str, ...]:
    """Return the class names that the metadata list for a column; empty if there are none."""
    try:
        metadata = json.loads((schema.metadata or {}).get(HUB_METADATA, b"{}"))
        feature = metadata["info"]["features"][label]
        if feature["_type"] == _CLASS_TYPE and all(isinstance(n, str) for n in feature["names"]):
            return tuple(name.strip() for name in feature["names"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return ()


def _read_names(
    table: "pa.Table", file_column: str | None, image: str, names: str | None, num_rows: int
) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    if names is None:
        return pa.array([""] * num_rows, pa.string())
    column = table[file_column] if file_column else pc.struct_field(table[image], PATH_FIELD)
    if pa.types.is_string(column.type) and _are_clean(column):
        return column.combine_chunks()
    return pa.array([escape_non_utf8(_clean_name(name)) for name in column.to_pylist()])


def _are_clean(names: "pa.ChunkedArray") -> bool:
    """Whether `_clean_name` would return all names as they are."""
    import pyarrow.compute as pc

    return (
        names.null_count == 0 and not pc.any(pc.match_substring_regex(names, _UNCLEAN_NAME)).as_py()
    )


def _clean_name(name: object) -> str:
    """Return a name relative to the set; empty if there is none."""
    if not isinstance(name, str) or not name.strip("/ "):
        return ""
    return posixpath.basename(name) if leaves_root(name) else posixpath.normpath(name)


def _read_texts(
    table: "pa.Table",
    name: str | None,
    read_text: Callable[[object, str], str | None],
    address: str,
    num_rows: int,
) -> "pa.DictionaryArray":
    """Return labels or groups as text; `read_text` is called once for each value that occurs."""
    import pyarrow as pa

    if name is None:
        return encode_texts([None] * num_rows)
    column = table[name]
    if pa.types.is_nested(column.type):
        values = column.to_pylist()
        return encode_texts(
            read_text(value, f"{address}: row {row}") for row, value in enumerate(values)
        )
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy()
    first_rows = np.zeros(len(encoded.dictionary) + 1, dtype=np.int64)
    first_rows[codes[::-1]] = np.arange(num_rows)[::-1]  # the last assignment counts
    values = encoded.dictionary.to_pylist()
    texts = encode_texts(
        read_text(value, f"{address}: row {row}")
        for value, row in zip(values, first_rows.tolist(), strict=False)
    )
    return texts.take(encoded.indices)


def _read_label(value: object, location: str, classes: Sequence[str]) -> str | None:
    if not classes or not isinstance(value, int):
        return cell_to_text(value, location)
    if value == -1:  # no label, by Hugging Face's convention
        return None
    if not 0 <= value < len(classes):
        raise make_damage_error(location, f"has the label {value}, but {len(classes)} classes")
    return classes[value]


@contextmanager
def _open_parquet(path: Path, address: str) -> Iterator["ParquetFile"]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, pre_buffer=False) as file:
            yield file
    except pa.ArrowException as error:
        reason = f"is damaged or truncated: {summarize_error(error)}"
        raise make_damage_error(address, reason) from error


@dataclass(slots=True)
class RowGroupCache:
    """The images of the row groups that were read last, at most `_KEPT_BYTES` bytes."""

    _groups: "OrderedDict[tuple[str, int], pa.ChunkedArray]" = field(default_factory=OrderedDict)
    _starts: dict[str, list[int]] = field(default_factory=dict)
    _num_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, path: Path, address: str, row: int) -> bytes:
        """Return the bytes of the image in a row.

        Raises:
            UndecodableError: The row has no image.
            InvalidDatasetError: The file is damaged.
            OSError: It cannot be read.
        """
        with self._lock:
            group, place = self._find_group(path, address, row)
            images = self._read_group(path, address, group)
        value = images[place].as_py()
        content = value.get(BYTES_FIELD) if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise UndecodableError(_NO_BYTES_REASON)
        return content

    def _find_group(self, path: Path, address: str, row: int) -> tuple[int, int]:
        starts = self._starts.get(address)
        if starts is None:
            with _open_parquet(path, address) as file:
                metadata, starts = file.metadata, [0]
                for group in range(metadata.num_row_groups):
                    starts.append(starts[-1] + metadata.row_group(group).num_rows)
            self._starts[address] = starts
        group = bisect_right(starts, row) - 1
        return group, row - starts[group]

    def _read_group(self, path: Path, address: str, group: int) -> "pa.ChunkedArray":
        key = (address, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        with _open_parquet(path, address) as file:
            column = find_image_column(file.schema_arrow, address)
            images = file.read_row_group(group, columns=[column])[column]
        self._groups[key] = images
        self._num_bytes += images.nbytes
        while self._num_bytes > _KEPT_BYTES and len(self._groups) > 1:
            _, dropped = self._groups.popitem(last=False)
            self._num_bytes -= dropped.nbytes
        return images
