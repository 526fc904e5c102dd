"""Arrow files of the cache: tables that are memory-mapped when they are read."""

from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.files import replace_durably

if TYPE_CHECKING:
    import pyarrow as pa


def read_arrow_file(path: Path) -> "pa.Table":
    """Return the table in a file, which stays mapped while the table is in use.

    Raises:
        OSError: The file cannot be read.
        pyarrow.ArrowException: It is damaged.
    """
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def write_arrow_file(table: "pa.Table", path: Path) -> None:
    """Write a table; the file appears complete or not at all.

    Raises:
        StorageError: The folder cannot be written.
    """
    import pyarrow as pa

    with (
        replace_durably(path) as draft,
        pa.OSFile(str(draft), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)
