"""The journal of a run: its records on disk, in order, and which of them the store has.

    records.jsonl   one record per line: number, checksum, JSON; lines are only appended
    sent.json       the last number that was acknowledged, and the refused ones before it
    files/          the files of artifacts and models that were not sent yet

A process that is killed leaves at most an incomplete last line, which is dropped.
"""

import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from trialrun.engine.early_stopping import KILLED
from trialrun.errors import StorageError
from trialrun.files import (
    create_directory,
    format_json,
    translate_storage_errors,
    write_atomically,
)
from trialrun.tracking.deferred_signals import defer_signals
from trialrun.tracking.records import (
    END,
    METRICS,
    PARAMS,
    REOPEN,
    TAGS,
    Record,
    format_line,
    parse_line,
)

_RECORDS, _SENT, _FILES = "records.jsonl", "sent.json", "files"


class Journal:
    """The records of one run on disk; threads of one process may share it.

    `changed` is notified when a record is appended, acknowledged or refused.
    """

    def __init__(self, folder: Path) -> None:
        """Open the journal in `folder`, which is created if it does not exist.

        Raises:
            StorageError: The folder cannot be written, or a record is damaged.
        """
        self.folder = folder
        self.changed = threading.Condition()
        self.num_records = 0
        self.end_status: str | None = None  # None while the run is open
        self.results: dict[str, dict[str, Any]] = {}  # of custom records, by kind
        self.param_names: set[str] = set()
        self._timestamps: dict[tuple[str, int], int] = {}
        self._unsent: dict[int, Record] = {}
        self._refused: set[int] = set()
        self._is_closed = False
        self._path = folder / _RECORDS
        with translate_storage_errors(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                self._read()
            except BaseException:
                os.close(self._descriptor)
                raise

    def _read(self) -> None:
        records, self._num_bytes = read_records(self._path)
        os.ftruncate(self._descriptor, self._num_bytes)
        for record in records:
            self._add(record)
        progress = _read_progress(self.folder / _SENT)
        acknowledged = min(progress["acknowledged"], self.num_records)
        self.results = progress["results"]
        self._refused = {number for number in progress["refused"] if number <= acknowledged}
        for number in range(1, acknowledged + 1):
            if number not in self._refused:
                del self._unsent[number]

    def _add(self, record: Record) -> None:
        self.num_records += 1
        self._unsent[self.num_records] = record
        values = record.values
        if record.kind == METRICS:
            for name in values["metrics"]:
                self._timestamps.setdefault((name, values["step"]), values["timestamp_ms"])
        elif record.kind == PARAMS:
            self.param_names.update(values["params"])
        elif record.kind == END:
            self.end_status = values["status"]
        elif record.kind == REOPEN:
            self.end_status = None

    def append(self, record: Record) -> None:
        """Append a record. It survives the end of this process, however it ends.

        Raises:
            StorageError: The disk is full or the folder is not writable.
        """
        with defer_signals(), self.changed:
            line = format_line(self.num_records + 1, record)
            with translate_storage_errors(self._path):
                self._write(line)
            self._num_bytes += len(line)
            self._add(record)
            self.changed.notify_all()

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):  # the disk is full: the next call raises the error
                written += os.write(self._descriptor, line[written:])
        except OSError:
            os.ftruncate(self._descriptor, self._num_bytes)
            raise

    def flush(self) -> None:
        """Flush the records to disk, so that they survive a power failure.

        Raises:
            StorageError: The disk fails.
        """
        with translate_storage_errors(self._path):
            os.fdatasync(self._descriptor)

    def find_timestamp(self, name: str, step: int) -> int | None:
        """Return the timestamp of a metric's value at `step`; None if it has none."""
        return self._timestamps.get((name, step))

    def find_last_step(self, prefix: str) -> int | None:
        """Return the last step of the metrics with names that start with `prefix`, if any."""
        with self.changed:
            return max(
                (step for name, step in self._timestamps if name.startswith(prefix)), default=None
            )

    def list_pending(self) -> list[tuple[int, Record]]:
        """Return numbers and records that were neither acknowledged nor refused, in order."""
        with self.changed:
            return sorted(
                (item for item in self._unsent.items() if item[0] not in self._refused),
                key=lambda item: item[0],
            )

    @property
    def num_pending(self) -> int:
        """The number of records that were neither acknowledged nor refused."""
        return len(self._unsent.keys() - self._refused)

    @property
    def num_unsent(self) -> int:
        """The number of records that the store does not have, refused ones included."""
        return len(self._unsent)

    def acknowledge(self, numbers: Iterable[int], results: Mapping[str, Any] | None = None) -> None:
        """Store that the tracking store has these records, and the results of custom ones."""
        with self.changed:
            if self._is_closed:  # another process may replay the journal now
                return
            sent = [self._unsent.pop(number) for number in numbers if number in self._unsent]
            self._refused &= self._unsent.keys()
            self.results |= results or {}
            self._write_progress()
            self.changed.notify_all()
        for record in sent:
            if name := record.values.get("file"):
                _remove(self.find_file(name).parent)

    def refuse(self, number: int) -> None:
        """Store that the tracking store refused a record; later ones do not wait for it."""
        with self.changed:
            if not self._is_closed:
                self._refused.add(number)
                self._write_progress()
                self.changed.notify_all()

    def retry_refused(self) -> None:
        """Make the refused records pending again."""
        with self.changed:
            self._refused.clear()
            self._write_progress()
            self.changed.notify_all()

    def _write_progress(self) -> None:
        pending = [number for number in self._unsent if number not in self._refused]
        acknowledged = min(pending, default=self.num_records + 1) - 1
        # A refused record before the last acknowledged one is listed; later ones are tried again.
        refused = sorted(number for number in self._refused if number <= acknowledged)
        progress = {"acknowledged": acknowledged, "refused": refused, "results": self.results}
        write_atomically(self.folder / _SENT, format_json(progress))

    def add_file(self, name: str, fill: Callable[[Path], None]) -> str:
        """Let `fill` write the file or folder `name` in a new folder; return its relative path.

        Raises:
            StorageError: The disk is full or the folder is not writable.
        """
        parent = self.folder / _FILES / secrets.token_hex(6)
        with translate_storage_errors(parent / name), create_directory(parent) as draft:
            fill(draft / name)
        return (parent / name).relative_to(self.folder).as_posix()

    def find_file(self, name: str) -> Path:
        """Return the path of a file or folder that `add_file` wrote."""
        return self.folder / name

    def delete(self) -> None:
        """Delete the files of the journal; it must be closed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Close the journal: acknowledgements that arrive later are ignored."""
        with self.changed:
            if not self._is_closed:
                self._is_closed = True
                os.close(self._descriptor)
                self.changed.notify_all()


def read_records(path: Path) -> tuple[list[Record], int]:
    """Return the records of a journal and the length of their lines in bytes.

    An incomplete or damaged last line is dropped: the process was killed while it wrote it.

    Raises:
        StorageError: A line before the last is damaged or missing.
    """
    with translate_storage_errors(path), path.open("rb") as file:
        lines = list(file)
    records: list[Record] = []
    num_bytes = 0
    for index, line in enumerate(lines):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("incomplete")
            number, record = parse_line(line[:-1])
            if number != index + 1:
                raise ValueError(f"it has the number {number}")
        except ValueError as error:
            if index == len(lines) - 1:
                break
            raise StorageError(
                f"record {index + 1} in {path} is damaged: {error}",
                "Restore the file from a backup; what follows the damage was not sent.",
            ) from error
        records.append(record)
        num_bytes += len(line)
    return records, num_bytes


def _read_progress(path: Path) -> dict[str, Any]:
    """Return what `sent.json` holds; without it, all records are sent again, which is harmless."""
    try:
        values = json.loads(path.read_text("utf-8"))
        return {
            "acknowledged": int(values["acknowledged"]),
            "refused": [int(number) for number in values["refused"]],
            "results": dict(values["results"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {"acknowledged": 0, "refused": [], "results": {}}


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def count_unsent(folder: Path) -> int:
    """Return the number of records in a journal that the store does not have; changes nothing.

    Raises:
        StorageError: The journal cannot be read.
    """
    records, _ = read_records(folder / _RECORDS)
    progress = _read_progress(folder / _SENT)
    acknowledged: int = min(progress["acknowledged"], len(records))
    refused = {number for number in progress["refused"] if number <= acknowledged}
    return len(records) - acknowledged + len(refused)


def find_failure(folder: Path) -> str | None:
    """Return the error that the last process recorded before it was killed; None without one.

    Raises:
        StorageError: The journal cannot be read.
    """
    error = None
    for record in read_records(folder / _RECORDS)[0]:
        if record.kind == REOPEN:
            error = None
        elif record.kind == TAGS and "error" in record.values["tags"]:
            tags = record.values["tags"]
            error = None if tags.get("stop_reason") == KILLED else str(tags["error"])
    return error


def has_journal(folder: Path) -> bool:
    """Whether `folder` is that of a journal."""
    return (folder / _RECORDS).is_file()
