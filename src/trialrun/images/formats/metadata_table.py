"""Reader of a folder with a metadata table: `metadata.csv`, `.jsonl` or `.parquet`.

The table has one row per image: the column `file_name` (relative to the folder, with `/`) and
optionally `label`, or the columns that the settings name; an image with an empty label is
unlabelled. Any other column may hold the groups of a split. To add a file format, add its parser to
`_PARSERS`.
"""

import csv
import json
import math
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.errors import InvalidDatasetError, InvalidParameterError, summarize_error
from trialrun.images.dataset import ImageItem, ImageSet, is_encodable, leaves_root, make_printable
from trialrun.images.formats.unlisted import describe_unlisted
from trialrun.images.labels.several import (
    SEVERAL_LABELS_HINT,
    describe_indicator_columns,
    find_indicator_columns,
    is_positive,
)

_NAME_COLUMN, LABEL_COLUMN = "file_name", "label"
_HINT = "Give it the columns file_name and label, one row per image."
_RELATIVE_HINT = "Write names relative to the table's folder, with /."

_Columns = list[str]
_Rows = list[dict[str, Any]]


def can_read(folder: Path) -> bool:
    """Whether the folder has a metadata table."""
    return any((folder / name).is_file() for name in TABLES)


def read_images(
    folder: Path,
    source: str,
    group_column: str | None = None,
    *,
    config: DataConfig = DEFAULT_DATA_CONFIG,
) -> ImageSet:
    """Read the images listed in the metadata table, in its order.

    Raises:
        InvalidDatasetError: The table is damaged, has no column of names, has several labels per
            image, or lists an image twice or one outside the folder.
        InvalidParameterError: The table has no column that a setting names.
    """
    table = _find_table(folder, source)
    columns, rows = _read_table(table)
    reader = _RowReader(
        table,
        name=config.file_column or _NAME_COLUMN,
        label=config.label_column or LABEL_COLUMN,
        group=group_column,
    )
    settings = {"group_column": group_column, "label_column": config.label_column}
    for setting, column in (settings | {"file_column": config.file_column}).items():
        if column is not None and column not in columns:
            raise InvalidParameterError(
                f"{setting}={column} is not in {table.name}", f"Its columns are {columns}."
            )
    if reader.name not in columns:
        raise InvalidDatasetError(
            f"{table} has no column {reader.name}, but {columns}",
            f"{_HINT} Name another column of files with file_column.",
        )
    items = tuple(reader.read_items(rows))
    notes = () if reader.label in columns else _describe_missing_labels(columns, rows)
    listed = (item.name for item in items)
    unlisted = describe_unlisted(folder, listed, table.name, follow_links=config.follow_links)
    root, all_notes = folder.resolve(), (*notes, *unlisted)
    return ImageSet(source, root, items, notes=all_notes, follow_links=config.follow_links)


def read_columns(folder: Path, config: DataConfig) -> dict[str, dict[str, Any]]:
    """Return the columns of each image besides its name and label, by image name."""
    table = _find_table(folder, str(folder))
    _, rows = _read_table(table)
    name, label = config.file_column or _NAME_COLUMN, config.label_column or LABEL_COLUMN
    reader = _RowReader(table, name=name, label=label)
    return {
        reader.read_name(row, number): {
            key: value for key, value in row.items() if key and key not in (name, label)
        }
        for number, row in enumerate(rows, start=1)
    }


def _find_table(folder: Path, source: str) -> Path:
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        names = " and ".join(path.name for path in tables)
        raise InvalidDatasetError(f"{source} has {names}", "Keep one of them.")
    return tables[0]


def _describe_missing_labels(columns: _Columns, rows: _Rows) -> tuple[str, ...]:
    notes = [f"no column {LABEL_COLUMN}, but {columns}"]
    if indicators := find_indicator_columns(columns, rows):
        several = [row for row in rows if sum(is_positive(row[name]) for name in indicators) > 1]
        notes.append(describe_indicator_columns(indicators, num_rows_with_several=len(several)))
    return tuple(notes)


def _read_table(path: Path) -> tuple[_Columns, _Rows]:
    try:
        return _PARSERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise InvalidDatasetError(
            f"{path} is not in UTF-8: {error}", "Save it as UTF-8."
        ) from error
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InvalidDatasetError(f"{path} is damaged: {summarize_error(error)}", _HINT) from error


def _parse_csv(path: Path) -> tuple[_Columns, _Rows]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # Excel writes a byte order mark
        reader = csv.DictReader(file, strict=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        rows = list(reader)
        return list(reader.fieldnames or ()), rows


def _parse_jsonl(path: Path) -> tuple[_Columns, _Rows]:
    lines = enumerate(path.read_text("utf-8").split("\n"), start=1)
    rows = [_parse_json_object(number, line) for number, line in lines if line.strip()]
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _parse_json_object(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error.msg}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is not a JSON object")
    return row


def _parse_parquet(path: Path) -> tuple[_Columns, _Rows]:
    import pyarrow.parquet
    from pyarrow import ArrowException

    try:
        table = pyarrow.parquet.read_table(path)
    except ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return table.column_names, table.to_pylist()


_PARSERS: dict[str, Callable[[Path], tuple[_Columns, _Rows]]] = {
    ".csv": _parse_csv,
    ".jsonl": _parse_jsonl,
    ".parquet": _parse_parquet,
}
LIST_SUFFIXES: tuple[str, ...] = tuple(_PARSERS)
TABLES = tuple(f"metadata{suffix}" for suffix in _PARSERS)


@dataclass(frozen=True, slots=True)
class _RowReader:
    """Reads rows of a table; the fields are its path and the names of its columns."""

    table: Path
    name: str
    label: str
    group: str | None = None

    def read_items(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[ImageItem]:
        """Yield an item per row."""
        names: set[str] = set()
        for number, row in enumerate(rows, start=1):
            name = self.read_name(row, number)
            if name in names:
                raise InvalidDatasetError(
                    f"{self.table}: row {number} lists {make_printable(name)} again",
                    "List each image once.",
                )
            names.add(name)
            label = self._read_label(row, number)
            group = _cell_to_text(row.get(self.group)) if self.group else None
            if not is_encodable(label or "") or not is_encodable(group or ""):
                raise InvalidDatasetError(
                    f"{self.table}: row {number} has text that UTF-8 cannot encode: {label!a}",
                    _HINT,
                )
            yield ImageItem(name, label, group=group)

    def read_name(self, row: Mapping[str, Any], number: int) -> str:
        """Return the image's name; spaces around it are dropped unless the file has them."""
        location = f"{self.table}: row {number}"
        name = row.get(self.name)
        if not is_encodable(name) or not name.strip():
            raise InvalidDatasetError(f"{location} has no {self.name}", _HINT)
        if leaves_root(name):
            raise InvalidDatasetError(
                f"{location} leads out of the folder, or begins at the root: "
                f"{make_printable(name)}",
                _RELATIVE_HINT,
            )
        stripped = name.strip()
        if stripped != name and not (self.table.parent / name).exists():
            if leaves_root(stripped):
                raise InvalidDatasetError(
                    f"{location} begins at the root: {make_printable(name)}", _RELATIVE_HINT
                )
            name = stripped
        return posixpath.normpath(name)  # a//b and a/./b become a/b

    def _read_label(self, row: Mapping[str, Any], number: int) -> str | None:
        label = row.get(self.label)
        if isinstance(label, dict | list):
            raise InvalidDatasetError(
                f"{self.table}: row {number} has a label that is not text but a list: several "
                "labels per image",
                SEVERAL_LABELS_HINT,
            )
        return _cell_to_text(label)


def _cell_to_text(value: Any) -> str | None:
    """Return a cell's text without a whole number's decimal point; None if the cell is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None
