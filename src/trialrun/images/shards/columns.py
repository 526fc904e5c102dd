"""Columns of the images in one shard, as an index stores them, and the settings that name them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trialrun.config.data import DataConfig
from trialrun.errors import InvalidDatasetError, redact_credentials
from trialrun.images.dataset import escape_non_utf8, is_encodable, make_printable
from trialrun.images.items import encode_texts
from trialrun.images.labels.several import SEVERAL_LABELS_HINT
from trialrun.images.notes import LeftOut

if TYPE_CHECKING:
    import pyarrow as pa

DAMAGED_HINT = "Write or download the shard again."


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """The fields or columns of names, labels and groups that settings name; None is the default."""

    file: str | None = None
    label: str | None = None
    group: str | None = None


def choose_columns(config: DataConfig, group_column: str | None) -> ColumnNames:
    """Return the names of columns that the settings of a source name."""
    return ColumnNames(config.file_column, config.label_column, group_column)


@dataclass(frozen=True, slots=True, eq=False)
class ShardRows:
    """The N images of one shard, in its order, as columns.

    `names` are strings, of which empty ones are replaced later; `labels` and `groups` are
    dictionary-encoded strings with nulls. `offsets`, (N,), are places of the images' bytes in a
    tar, and numbers of rows in a Parquet file; `sizes`, (N,), are 0 there. `classes` are names that
    the shard lists, in their order.
    """

    names: "pa.Array"
    labels: "pa.DictionaryArray"
    groups: "pa.DictionaryArray"
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)


@dataclass(slots=True)
class ShardColumns:
    """Collects the images of one shard one by one; see `ShardRows`."""

    names: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    def add(
        self, name: str, label: str | None, group: str | None, *, offset: int, num_bytes: int
    ) -> None:
        """Append one image."""
        self.names.append(escape_non_utf8(name))
        self.labels.append(label)
        self.groups.append(group)
        self.offsets.append(offset)
        self.sizes.append(num_bytes)

    def build(self) -> ShardRows:
        """Return the images as columns."""
        import pyarrow as pa

        return ShardRows(
            pa.array(self.names, pa.string()),
            encode_texts(self.labels),
            encode_texts(self.groups),
            np.asarray(self.offsets, dtype=np.int64),
            np.asarray(self.sizes, dtype=np.int64),
            left_out=self.left_out,
        )


def cell_to_text(value: object, location: str) -> str | None:
    """Return a label or group as text; None if it is empty.

    Raises:
        InvalidDatasetError: It is a list or an object, or text that UTF-8 cannot encode.
    """
    if isinstance(value, dict | list):
        raise InvalidDatasetError(
            f"{location} has a label that is not text but a list: several labels per image",
            SEVERAL_LABELS_HINT,
        )
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if text == "nan" or not text:
        return None
    if not is_encodable(text):
        raise make_damage_error(location, f"has text that UTF-8 cannot encode: {text!a}")
    return text


def make_damage_error(address: str, reason: str, hint: str = DAMAGED_HINT) -> InvalidDatasetError:
    """Return the error for a shard that cannot be read."""
    return InvalidDatasetError(f"{make_printable(redact_credentials(address))} {reason}", hint)
