"""Writers of one shard: a tar in WebDataset's layout, or a Parquet file in Hugging Face's.

The bytes of a shard depend on its images alone: no time, no user and no host is in it.
"""

import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from trialrun.images.decoding.header import read_header
from trialrun.images.scanning.walk import is_image_name
from trialrun.images.shards.parquet_shards import (
    BYTES_FIELD,
    HUB_METADATA,
    IMAGE_COLUMN,
    PATH_FIELD,
)
from trialrun.images.shards.tar_shards import (
    GROUP_FIELD,
    JSON_ENDING,
    LABEL_ENDING,
    LABEL_FIELD,
    NAME_FIELD,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

TAR_OVERHEAD_BYTES = 3 * tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE  # headers, label and fields
_GROUP_ROWS, _GROUP_BYTES = 100, 32 * 10**6  # of a row group, which is read as a whole


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image to write; `label` is the number of its class, `position` its place in the set."""

    position: int
    name: str
    label: int | None
    group: str | None
    data: bytes


class ShardWriter(Protocol):
    """Writer of one shard."""

    def add(self, row: ImageRow) -> int:
        """Append an image and return its offset in the index."""
        ...

    def close(self) -> None:
        """Write the end of the shard."""
        ...


@dataclass(slots=True)
class TarWriter:
    """Writes a tar: image, number of the class (`.cls`) and name, label and group (`.json`)."""

    path: Path
    classes: Sequence[str]
    has_groups: bool
    _tar: tarfile.TarFile = field(init=False)

    def __post_init__(self) -> None:
        self._tar = tarfile.open(  # noqa: SIM115 - closed by `close`
            self.path, "w", format=tarfile.USTAR_FORMAT
        )

    def add(self, row: ImageRow) -> int:
        """Append an image and return the place of its bytes."""
        key = f"{row.position:09d}"
        offset = self._add_file(f"{key}{_find_suffix(row)}", row.data)
        fields: dict[str, Any] = {NAME_FIELD: row.name}
        if row.label is not None:
            fields[LABEL_FIELD] = self.classes[row.label]
            self._add_file(f"{key}.{LABEL_ENDING}", str(row.label).encode())
        if row.group is not None:
            fields[GROUP_FIELD] = row.group
        self._add_file(f"{key}.{JSON_ENDING}", json.dumps(fields).encode())
        return offset

    def _add_file(self, name: str, data: bytes) -> int:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        offset: int = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(member, io.BytesIO(data))
        self._tar.members.clear()  # type: ignore[attr-defined]
        return offset

    def close(self) -> None:
        """Write the end of the shard."""
        self._tar.close()


def _find_suffix(row: ImageRow) -> str:
    """Return the ending of the image's name, or one of its format if the name has none."""
    suffix = os.path.splitext(row.name)[1].lower()  # noqa: PTH122 - names are no paths here
    if suffix.isascii() and is_image_name(f"x{suffix}"):
        return suffix
    suffix = f".{read_header(row.data).format.lower()}"
    return suffix if is_image_name(f"x{suffix}") else ".jpg"


@dataclass(slots=True)
class ParquetShardWriter:
    """Writes a Parquet file: structs of bytes and path, numbers of the classes, and groups."""

    path: Path
    classes: Sequence[str]
    has_groups: bool
    _schema: "pa.Schema" = field(init=False)
    _writer: "ParquetWriter" = field(init=False)
    _rows: list[ImageRow] = field(default_factory=list, init=False)
    _num_rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        from pyarrow.parquet import ParquetWriter

        self._schema = _make_schema(self.classes, has_groups=self.has_groups)
        self._writer = ParquetWriter(
            self.path, self._schema, compression="none", write_statistics=[LABEL_FIELD]
        )

    def add(self, row: ImageRow) -> int:
        """Append an image and return its row."""
        self._rows.append(row)
        num_bytes = sum(len(waiting.data) for waiting in self._rows)
        if len(self._rows) == _GROUP_ROWS or num_bytes >= _GROUP_BYTES:
            self._write_group()
        self._num_rows += 1
        return self._num_rows - 1

    def _write_group(self) -> None:
        import pyarrow as pa

        rows, self._rows = self._rows, []
        columns = {
            IMAGE_COLUMN: [{BYTES_FIELD: row.data, PATH_FIELD: row.name} for row in rows],
            LABEL_FIELD: [row.label for row in rows],
            **({GROUP_FIELD: [row.group for row in rows]} if self.has_groups else {}),
        }
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        """Write the end of the shard."""
        if self._rows:
            self._write_group()
        self._writer.close()


def _make_schema(classes: Sequence[str], *, has_groups: bool) -> "pa.Schema":
    import pyarrow as pa

    features: dict[str, Any] = {
        IMAGE_COLUMN: {"_type": "Image"},
        LABEL_FIELD: {"names": list(classes), "_type": "ClassLabel"},
    }
    fields = [
        pa.field(IMAGE_COLUMN, pa.struct({BYTES_FIELD: pa.binary(), PATH_FIELD: pa.string()})),
        pa.field(LABEL_FIELD, pa.int64()),
    ]
    if has_groups:
        fields.append(pa.field(GROUP_FIELD, pa.string()))
        features[GROUP_FIELD] = {"dtype": "string", "_type": "Value"}
    metadata = {HUB_METADATA: json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


class WriterClass(Protocol):
    """Constructor of the writer of one format, by the suffix of its files."""

    def __call__(self, path: Path, classes: Sequence[str], has_groups: bool) -> ShardWriter:
        """Return a writer of the shard `path`."""
        ...


WRITERS: Mapping[str, WriterClass] = MappingProxyType(
    {".tar": TarWriter, ".parquet": ParquetShardWriter}
)
