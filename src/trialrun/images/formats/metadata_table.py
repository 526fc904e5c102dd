"""A folder with a `metadata.csv`, `.jsonl` or `.parquet` that says which label each image has.

The columns `file_name` (below the folder, with `/`) and `label`, where there is one; an empty label
is none. Any other column may name the groups of a split.
"""

import csv
import json
import math
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trialrun.errors import InvalidDatasetError, InvalidParameterError, summarize_error
from trialrun.images.dataset import ImageItem, ImageSet, is_encodable, leaves_root, make_printable

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_NAME_COLUMN, LABEL_COLUMN = "file_name", "label"
_HINT = "Give it the columns file_name and label, one row an image."
_RELATIVE_HINT = "Write names relative to the table's folder, with /."


def can_read(folder: Path) -> bool:
    """Whether the folder holds one of the tables."""
    return any((folder / name).is_file() for name in TABLES)


def read_images(folder: Path, source: str, group_column: str | None = None) -> ImageSet:
    """The images that the table names, in its order.

    Raises:
        InvalidDatasetError: The table is damaged, has no `file_name`, names an image twice or one
            that lies elsewhere.
        InvalidParameterError: It has no `group_column`.
    """
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise InvalidDatasetError(f"{source} has {names}", "Keep one of them.")
    table = found[0]
    columns, rows = _read_table(table)
    if _NAME_COLUMN not in columns:
        raise InvalidDatasetError(f"{table} has no column {_NAME_COLUMN}, but {columns}", _HINT)
    if group_column is not None and group_column not in columns:
        raise InvalidParameterError(
            f"group_column={group_column} is not in {table.name}", f"Its columns are {columns}."
        )
    items = tuple(_read_items(table, rows, group_column))
    notes = () if LABEL_COLUMN in columns else (f"no column {LABEL_COLUMN}, but {columns}",)
    return ImageSet(source, folder.resolve(), items, notes=notes)


def _read_table(path: Path) -> tuple[list[str], Iterable[Mapping[str, Any]]]:
    read = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}[path.suffix]
    try:
        return read(path)
    except UnicodeDecodeError as error:
        raise InvalidDatasetError(
            f"{path} is not in UTF-8: {error}", "Save it as UTF-8."
        ) from error
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InvalidDatasetError(f"{path} is damaged: {summarize_error(error)}", _HINT) from error


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # Excel begins with a byte order mark
        reader = csv.DictReader(file, strict=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        rows = list(reader)
        return list(reader.fieldnames or ()), rows


def _read_jsonl(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    lines = enumerate(path.read_text("utf-8").split("\n"), start=1)
    rows = [_parse_json_object(number, line) for number, line in lines if line.strip()]
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _parse_json_object(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error.msg}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} holds no JSON object")
    return row


def _read_parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    import pyarrow.parquet
    from pyarrow import ArrowException

    try:
        table = pyarrow.parquet.read_table(path)
    except ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return table.column_names, table.to_pylist()


def _read_items(
    table: Path, rows: Iterable[Mapping[str, Any]], group_column: str | None
) -> Iterator[ImageItem]:
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        name = row.get(_NAME_COLUMN)
        if not name or not is_encodable(name):
            raise InvalidDatasetError(f"{table}: row {number} has no {_NAME_COLUMN}", _HINT)
        if leaves_root(name):
            raise InvalidDatasetError(
                f"{table}: row {number} leads out of the folder, or begins at the root: "
                f"{make_printable(name)}",
                _RELATIVE_HINT,
            )
        name = posixpath.normpath(name)  # a//b and a/./b are a/b
        if name in seen:
            raise InvalidDatasetError(
                f"{table}: row {number} names {make_printable(name)} again", "Name each image once."
            )
        seen.add(name)
        if isinstance(row.get(LABEL_COLUMN), dict | list):
            raise InvalidDatasetError(f"{table}: row {number} has a label that is no word", _HINT)
        group = _cell_to_text(row.get(group_column)) if group_column else None
        label = _cell_to_text(row.get(LABEL_COLUMN))
        if not is_encodable(label or "") or not is_encodable(group or ""):
            raise InvalidDatasetError(
                f"{table}: row {number} has a word that cannot be written: {label!a}", _HINT
            )
        yield ImageItem(name, label, group=group)


def _cell_to_text(value: Any) -> str | None:
    """A cell as a name; None where it is empty. A whole number has no decimal point."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None
