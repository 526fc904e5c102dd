"""Formats of tables that grow by appending: CSV, and Parquet by way of an Arrow stream.

A format encodes rows to bytes that are appended to a draft, and turns the complete draft into the
table. A Parquet file cannot be appended to after an interruption, an Arrow stream can.
"""

import csv
import io
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from trialrun.images import escape_non_utf8
from trialrun.runs.scoring.columns import PATH_COLUMN, Cell, Columns, ScoredItem

if TYPE_CHECKING:
    import pyarrow as pa

_ROW_GROUP_ROWS = 4096


class TableFormat(Protocol):
    """Encoding of rows to a draft's bytes, and of the draft to the table."""

    def encode_header(self) -> bytes:
        """Return the bytes before the first row."""

    def encode_rows(self, rows: Sequence[ScoredItem]) -> bytes:
        """Return the bytes of rows."""

    def write_table(self, draft: Path, path: Path) -> None:
        """Write the table in a complete draft to `path`."""


def choose_format(path: Path, columns: Columns) -> TableFormat:
    """Return the format of the table at `path`, by its suffix."""
    return CsvTable(columns) if path.suffix.lower() == ".csv" else ParquetTable(columns)


def choose_quoting(cells: Iterable[object]) -> Literal[0, 2]:
    r"""Return the quoting that `csv` needs for these cells if lines end in ``\n``.

    Before Python 3.13, `csv` does not quote a carriage return unless its own lines end in one, but
    readers end a line at any unquoted carriage return.
    """
    has_return = any(isinstance(cell, str) and "\r" in cell for cell in cells)
    return csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL


class CsvTable:
    """CSV in UTF-8 that keeps the bytes that names have on disk; columns are escaped."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def encode_header(self) -> bytes:
        """Return the names of the columns."""
        return _encode_csv([[escape_non_utf8(name) for name in self._columns.list_types()]])

    def encode_rows(self, rows: Sequence[ScoredItem]) -> bytes:
        """Return one line per row, and more for a cell with line breaks."""
        return _encode_csv(map(self._columns.build_row, rows))

    def write_table(self, draft: Path, path: Path) -> None:
        """Copy the draft, which is needed again if another output cannot be written."""
        shutil.copyfile(draft, path)


def _encode_csv(rows: Iterable[Sequence[Cell]]) -> bytes:
    text = io.StringIO(newline="")
    for row in rows:
        csv.writer(text, lineterminator="\n", quoting=choose_quoting(row)).writerow(row)
    return text.getvalue().encode("utf-8", "surrogateescape")


class _ArrowTable(ABC):
    """A draft in Arrow's stream format; the table is Parquet with row groups of a fixed size."""

    def __init__(self, schema: "pa.Schema") -> None:
        self._schema = schema

    def encode_header(self) -> bytes:
        """Return the message with the schema."""
        return bytes(self._schema.serialize())

    def encode_rows(self, rows: Sequence[ScoredItem]) -> bytes:
        """Return one message with the rows."""
        return bytes(self._build_batch(rows).serialize())

    @abstractmethod
    def _build_batch(self, rows: Sequence[ScoredItem]) -> "pa.RecordBatch":
        """Return the rows with the columns of the schema."""

    def write_table(self, draft: Path, path: Path) -> None:
        """Write the rows of the draft as Parquet, one row group at a time."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        with draft.open("rb") as file, ParquetWriter(path, self._schema) as writer:
            for table in _regroup(pa.ipc.open_stream(file), _ROW_GROUP_ROWS):
                writer.write_table(table)


def _regroup(batches: Iterable["pa.RecordBatch"], num_rows: int) -> Iterator["pa.Table"]:
    """Yield tables of `num_rows` rows; the last may be shorter."""
    import pyarrow as pa

    rest: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        rest = table if rest is None else pa.concat_tables([rest, table])
        while rest.num_rows >= num_rows:
            yield rest.slice(0, num_rows)
            rest = rest.slice(num_rows)
    if rest is not None and rest.num_rows:
        yield rest


class ParquetTable(_ArrowTable):
    """The table of scores; Parquet is UTF-8 only, other bytes are escaped."""

    def __init__(self, columns: Columns) -> None:
        import pyarrow as pa

        self._columns = columns
        types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
        super().__init__(
            pa.schema([(escape_non_utf8(n), types[t]) for n, t in columns.list_types().items()])
        )

    def _build_batch(self, rows: Sequence[ScoredItem]) -> "pa.RecordBatch":
        import pyarrow as pa

        cells = zip(*map(self._columns.build_row, rows), strict=True)
        arrays = [
            pa.array([_escape_text(cell) for cell in column], declared.type)
            for column, declared in zip(cells, self._schema, strict=True)
        ]
        return pa.record_batch(arrays, schema=self._schema)


def _escape_text(cell: Cell) -> Cell:
    return escape_non_utf8(cell) if isinstance(cell, str) else cell


class EmbeddingTable(_ArrowTable):
    """The features of each image as a list of float32; null if the image was not scored."""

    def __init__(self) -> None:
        import pyarrow as pa

        features = pa.list_(pa.float32())
        super().__init__(pa.schema([(PATH_COLUMN, pa.string()), ("embedding", features)]))

    def _build_batch(self, rows: Sequence[ScoredItem]) -> "pa.RecordBatch":
        import pyarrow as pa

        arrays: list[Any] = [
            pa.array([escape_non_utf8(row.item.name) for row in rows], pa.string()),
            pa.array([row.score.features for row in rows], self._schema.field(1).type),
        ]
        return pa.record_batch(arrays, schema=self._schema)
