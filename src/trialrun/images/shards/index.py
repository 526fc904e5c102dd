"""Index of shards: name, label and place of every image, as an Arrow table.

Columns: `name`; `label` and, if there are any, `group`, dictionary-encoded with nulls; `shard`, the
number of the shard; `offset`, a place in a tar or a row of a Parquet file; `size` in bytes, 0 where
unknown. An index that `trialrun data shard` wrote also has `position`, the place of the image in
the source, and the columns of scans.
"""

import json
import posixpath
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trialrun.errors import InvalidDatasetError, StorageError, redact_credentials
from trialrun.files import replace_durably
from trialrun.images.arrow_files import read_arrow_file, write_arrow_file
from trialrun.images.dataset import make_printable
from trialrun.images.items import ItemTable
from trialrun.images.notes import LeftOut
from trialrun.images.scanning.file_scan import SCAN_COLUMNS
from trialrun.images.shards.columns import ColumnNames, ShardRows
from trialrun.images.shards.listing import get_name
from trialrun.images.shards.parquet_shards import read_parquet_rows
from trialrun.images.shards.shard_cache import ShardCache
from trialrun.images.shards.storage import ShardFile
from trialrun.images.shards.tar_shards import read_tar_rows

if TYPE_CHECKING:
    import pyarrow as pa

_FORMAT = 1
_METADATA = b"trialrun"
_POSITION = "position"
_CHUNK_ROWS = 4096  # names that become Python objects at once
_NUM_AHEAD = 4  # shards that are downloaded while one is read


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """The images of `shards`; `classes` are those that the shards list, in order.

    `key` identifies the shards and what was read of them.
    """

    key: str
    shards: tuple[ShardFile, ...]
    table: "pa.Table"
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_scanned(self) -> bool:
        """Whether the index has the scans of all images."""
        return set(SCAN_COLUMNS) <= set(self.table.column_names)

    def column(self, name: str) -> NDArray[np.integer]:
        """Return a column of numbers."""
        values: NDArray[np.integer] = self.table[name].to_numpy()
        return values

    @property
    def positions(self) -> NDArray[np.integer] | None:
        """The place of each image in the set that was sharded, if it is known."""
        return self.column(_POSITION) if _POSITION in self.table.column_names else None

    def items(self) -> ItemTable:
        """Return all images in the order of the shards."""
        names, labels, groups = (
            _get_array(self.table, name) if name in self.table.column_names else None
            for name in ("name", "label", "group")
        )
        return ItemTable(names, labels, np.arange(self.table.num_rows), groups)


def make_key(shards: Sequence[ShardFile], columns: ColumnNames) -> str:
    """Return the identity of shards and of the columns that are read."""
    identity = [_FORMAT, [[s.address, s.num_bytes, s.version] for s in shards], asdict(columns)]
    return sha256(json.dumps(identity).encode()).hexdigest()[:32]


def build_index(
    shards: Sequence[ShardFile],
    columns: ColumnNames,
    cache: ShardCache,
    progress: Callable[[int], None],
) -> ShardIndex:
    """Read the headers of all shards; `progress` is called with the number of shards read.

    Raises:
        InvalidDatasetError: A shard is damaged, vanished or lists an image twice.
        StorageError: The store does not answer, or the cache has no room.
    """
    tables: list[pa.Table] = []
    left_out, classes, notes = LeftOut(), dict[str, None](), dict[str, None]()
    for number, shard in enumerate(shards):
        cache.prefetch(shards[number + 1 : number + 1 + _NUM_AHEAD])
        found = _read_rows(shard, columns, cache)
        tables.append(make_table(found, number))
        classes.update(dict.fromkeys(found.classes))
        notes.update(dict.fromkeys(found.notes))
        left_out.merge(found.left_out)
        progress(1)
    return make_index(shards, tables, columns, tuple(classes), (*notes, *left_out.notes()))


def make_index(
    shards: Sequence[ShardFile],
    tables: Sequence["pa.Table"],
    columns: ColumnNames,
    classes: tuple[str, ...],
    notes: tuple[str, ...],
) -> ShardIndex:
    """Return the index of shards with these `tables`, one per shard.

    Raises:
        InvalidDatasetError: Two shards have the same name.
    """
    import pyarrow as pa

    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    table = _make_names_unique(table, shards)
    if table["group"].null_count == len(table["group"]):
        table = table.drop_columns(["group"])
    return ShardIndex(make_key(shards, columns), tuple(shards), table, classes, notes)


def _read_rows(shard: ShardFile, columns: ColumnNames, cache: ShardCache) -> ShardRows:
    read = read_parquet_rows if is_parquet(shard) else read_tar_rows
    with cache.hold(shard) as path:
        try:
            return read(path, redact_credentials(shard.address), columns)
        except OSError as error:
            raise make_read_error(shard, error) from error


def make_read_error(shard: ShardFile, error: OSError) -> InvalidDatasetError:
    """Return the error for a shard on this machine that cannot be read."""
    return InvalidDatasetError(
        f"{redact_credentials(shard.address)} cannot be read: {error.strerror or error}",
        "Check its permissions and the disk.",
    )


def is_parquet(shard: ShardFile) -> bool:
    """Whether a shard is a Parquet file."""
    return get_name(shard).lower().endswith(".parquet")


def make_table(found: ShardRows, number: int) -> "pa.Table":
    """Return the rows of the index for the images of the shard with a number."""
    import pyarrow as pa

    columns = {
        "name": found.names,
        "label": found.labels,
        "group": found.groups,
        "shard": pa.array(np.full(len(found.names), number, dtype=np.int32)),
        "offset": pa.array(found.offsets),
        "size": pa.array(found.sizes),
    }
    return pa.table(columns)


def _make_names_unique(table: "pa.Table", shards: Sequence[ShardFile]) -> "pa.Table":
    """Name images after their shards and rows if names are missing or occur twice.

    Raises:
        InvalidDatasetError: Two shards have the same name.
    """
    import pyarrow as pa

    if _are_unique(table["name"]):
        return table
    stems = [posixpath.splitext(get_name(shard))[0] for shard in shards]
    for has_rows in (False, True):
        names = [
            _extend_name(name, stems[number], row if has_rows or not name else None)
            for name, number, row in zip(
                table["name"].to_pylist(),
                table["shard"].to_pylist(),
                _count_rows(table["shard"].to_numpy()).tolist(),
                strict=True,
            )
        ]
        column = pa.chunked_array([pa.array(names, pa.string())])
        if _are_unique(column):
            return table.set_column(0, "name", column)
    twice = next(stem for stem in stems if stems.count(stem) > 1)
    raise InvalidDatasetError(
        f"two shards have the name {make_printable(twice)}", "Give each shard a name of its own."
    )


def _count_rows(numbers: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return each image's row in its shard."""
    _, starts, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    rows: NDArray[np.integer] = np.arange(len(numbers)) - starts[inverse]
    return rows


def _extend_name(name: str, stem: str, row: int | None) -> str:
    parts = [stem, *(() if row is None else (f"{row:06d}",)), *((name,) if name else ())]
    return "/".join(parts)


def _are_unique(names: "pa.ChunkedArray") -> bool:
    """Whether no name is empty and none occurs twice.

    Different hashes prove that; Arrow's comparison of all names needs 100 bytes for each of them.
    """
    import pyarrow.compute as pc

    if pc.any(pc.equal(names, "")).as_py():
        return False
    chunks = (names.slice(start, _CHUNK_ROWS) for start in range(0, len(names), _CHUNK_ROWS))
    hashes = np.fromiter(
        (hash(name) for chunk in chunks for name in chunk.to_pylist()), np.int64, len(names)
    )
    if len(np.unique(hashes)) == len(names):
        return True
    return len(pc.unique(names)) == len(names)


def read_index(path: Path, shards: Sequence[ShardFile], key: str) -> ShardIndex | None:
    """Read the index that `write_index` wrote; None if it does not fit `shards`, or is damaged.

    Rows of other shards are left out. Shards are compared by name and size.
    """
    import pyarrow as pa

    try:
        table, values = _load_table(path)
        numbers = {tuple(entry): number for number, entry in enumerate(values["shards"])}
        wanted = [numbers[(get_name(shard), shard.num_bytes)] for shard in shards]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    if wanted != list(range(len(numbers))):
        table = _select_shards(table, wanted, len(numbers))
    return ShardIndex(key, tuple(shards), table, tuple(values["classes"]), tuple(values["notes"]))


def _load_table(path: Path) -> tuple["pa.Table", dict[str, Any]]:
    if path.suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            table = file.read().unify_dictionaries().combine_chunks()
    else:
        table = read_arrow_file(path)
    values = json.loads(table.schema.metadata[_METADATA])
    if values["format"] != _FORMAT:
        raise ValueError(f"format {values['format']}")
    return table, values


def _select_shards(table: "pa.Table", wanted: Sequence[int], num_shards: int) -> "pa.Table":
    """Return the rows of the wanted shards, in their order and with their new numbers."""
    import pyarrow as pa

    new_numbers = np.full(num_shards, len(wanted), dtype=np.int32)
    new_numbers[wanted] = np.arange(len(wanted))
    numbers = new_numbers[table["shard"].to_numpy()]
    order = np.argsort(numbers, kind="stable")[: int((numbers < len(wanted)).sum())]
    place = table.column_names.index("shard")
    return table.set_column(place, "shard", pa.array(numbers)).take(order).combine_chunks()


def write_index(index: ShardIndex, path: Path) -> None:
    """Write an index: as Parquet for a name that ends so, else as Arrow for memory-mapping.

    Raises:
        StorageError: The folder cannot be written.
    """
    values = {
        "format": _FORMAT,
        "shards": [[get_name(shard), shard.num_bytes] for shard in index.shards],
        "classes": index.classes,
        "notes": index.notes,
    }
    table = index.table.replace_schema_metadata({_METADATA: json.dumps(values)})
    if path.suffix != ".parquet":
        write_arrow_file(table, path)
        return
    from pyarrow.parquet import write_table

    with replace_durably(path) as draft:
        write_table(table, draft, compression="zstd")


def store_index(index: ShardIndex, path: Path) -> None:
    """Write an index into the cache; a cache that cannot be written is not an error."""
    with suppress(StorageError):
        write_index(index, path)


def with_scans(index: ShardIndex, scans: "pa.Table", rows: NDArray[np.integer]) -> ShardIndex:
    """Return the index with the scans of all images; `rows` are the rows of `scans`, in order."""
    order = np.argsort(rows)
    table = index.table.drop_columns(["size"])
    for name in SCAN_COLUMNS:
        table = table.append_column(name, scans[name].take(order).combine_chunks())
    return replace(index, table=table)


def _get_array(table: "pa.Table", name: str) -> "pa.Array":
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
