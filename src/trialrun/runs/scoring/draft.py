"""Drafts of output files: appended to, continued after a kill, renamed when they are complete.

A draft is a hidden folder beside the first output. It contains one growing file per output and
`progress.json`: how many rows the files contain, and of which work. A process that continues cuts
the files to the recorded sizes.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trialrun.errors import StorageError
from trialrun.files import format_json, replace_durably, translate_storage_errors, write_durably
from trialrun.runs.scoring.tables import TableFormat

_PROGRESS, _LOCK = "progress.json", "lock"


@dataclass(frozen=True, slots=True)
class Output:
    """An output file: its path, and the format of its rows."""

    path: Path
    format: TableFormat


@dataclass(frozen=True, slots=True)
class Progress:
    """What a draft contains: rows, rows with an error, and the bytes of each file.

    `identity` is the digest of all that decides the rows; `batch_size` is the one that was used.
    """

    identity: str
    batch_size: int
    num_rows: int = 0
    num_errors: int = 0
    num_bytes: Mapping[str, int] = field(default_factory=dict)


class Draft:
    """The growing files of one table and of its companions, one per output."""

    def __init__(self, folder: Path, outputs: Mapping[str, Output]) -> None:
        self._folder = folder
        self._outputs = outputs
        self.progress: Progress | None = None

    def read_progress(self, identity: str) -> Progress | None:
        """Return the progress of an interrupted process, or None if it did other work."""
        try:
            values: dict[str, Any] = json.loads((self._folder / _PROGRESS).read_text("utf-8"))
            progress = Progress(**values)
            sizes = {name: (self._folder / name).stat().st_size for name in self._outputs}
            is_complete = all(sizes[name] >= progress.num_bytes[name] for name in sizes)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return progress if is_complete and progress.identity == identity else None

    def begin(self, progress: Progress) -> None:
        """Cut the files to the recorded sizes; start them anew if nothing is recorded."""
        with translate_storage_errors(self._folder):
            for name, output in self._outputs.items():
                with (self._folder / name).open("ab") as file:
                    file.truncate(progress.num_bytes.get(name, 0))
                    if name not in progress.num_bytes:
                        file.write(output.format.encode_header())
        self._record(progress)

    def append(self, contents: Mapping[str, bytes], *, num_rows: int, num_errors: int) -> None:
        """Append encoded rows to each file, and record them.

        Raises:
            StorageError: The disk is full or not writable. The recorded rows remain.
        """
        assert self.progress is not None, "begin comes first"
        for name, content in contents.items():
            path = self._folder / name
            with translate_storage_errors(path), path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        self._record(
            Progress(
                self.progress.identity,
                self.progress.batch_size,
                self.progress.num_rows + num_rows,
                self.progress.num_errors + num_errors,
            )
        )

    def _record(self, progress: Progress) -> None:
        with translate_storage_errors(self._folder):
            sizes = {name: (self._folder / name).stat().st_size for name in self._outputs}
        values = asdict(progress) | {"num_bytes": sizes}
        write_durably(self._folder / _PROGRESS, format_json(values))
        self.progress = Progress(**values)

    def finish(self) -> None:
        """Write the outputs and rename them to their names, the table last.

        Raises:
            StorageError: The disk is full, or a folder is not writable.
        """
        for name, output in reversed(list(self._outputs.items())):
            with replace_durably(output.path) as path:
                output.format.write_table(self._folder / name, path)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def open_draft(outputs: Mapping[str, Output]) -> Iterator[Draft]:
    """Open the draft beside the first output, for this process alone.

    Raises:
        StorageError: Another process writes this output, or the folder is not writable.
    """
    path = next(iter(outputs.values())).path
    folder = path.with_name(f".{path.name}.draft")
    with translate_storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StorageError(
                f"another process is writing {path}", "Wait for it, or choose another output."
            ) from None
    draft = Draft(folder, outputs)
    try:
        yield draft
    finally:
        if draft.progress is None or not draft.progress.num_rows:
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()
