"""Writers of records: straight to the tracking store, or through the journal on disk."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trialrun.errors import TrialrunError
from trialrun.files import scratch_directory
from trialrun.mlflow_client import is_answering, translate_tracking_errors
from trialrun.tracking.deferred_signals import defer_signals
from trialrun.tracking.journal import Journal
from trialrun.tracking.records import ARTIFACT, END, Record, cut_tag, make_tags
from trialrun.tracking.replay import (
    RecordHandler,
    Replayer,
    RunTarget,
    hash_payload,
    now_ms,
    write_record,
)
from trialrun.tracking.sender import Sender

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Seconds to send the last records of a run that ends with an error.
_PATIENCE_SECONDS = {"KILLED": 3.0, "FAILED": 10.0}
_STOP_SECONDS = 0.5


class RecordWriter(Protocol):
    """Writes the records of one run and ends it."""

    run_id: str

    def write(self, record: Record) -> None:
        """Write a record without files."""

    def try_write(self, record: Record) -> None:
        """Write a record without files; errors are ignored."""

    def write_text(self, name: str, text: str) -> None:
        """Write a text as the artifact `name`."""

    def write_file(self, path: Path, folder: str | None) -> None:
        """Write a file as an artifact in `folder`."""

    def write_custom(
        self, kind: str, values: Mapping[str, Any], fill: Callable[[Path], None]
    ) -> None:
        """Write a record that a handler sends, with a folder that `fill` creates."""

    def read_result(self, kind: str) -> Mapping[str, Any] | None:
        """Return what the handler of a custom record returned; None if it was not sent yet."""

    def find_timestamp(self, name: str, step: int) -> int | None:
        """Return the timestamp of the value that a metric has at `step`, if it is known."""

    @property
    def is_drained(self) -> bool:
        """Whether the store has all records."""

    def flush(self) -> None:
        """Wait until the store has all records, or does not answer for too long."""

    def end(self, status: str) -> None:
        """End the run."""

    def fail(self, status: str, tags: Mapping[str, str]) -> None:
        """End the run after an error; errors of the store are ignored."""

    def close(self) -> None:
        """Release what the writer holds; the run has ended."""


class DirectWriter:
    """Writes to the tracking store and waits for it."""

    def __init__(
        self,
        client: "MlflowClient",
        run_id: str,
        handlers: Mapping[str, RecordHandler] | None = None,
    ) -> None:
        self.run_id = run_id
        self._client = client
        self._handlers = handlers or {}
        self._target = RunTarget(client, run_id)
        self._results: dict[str, Mapping[str, Any]] = {}

    def write(self, record: Record) -> None:
        """Write a record without files."""
        with self._defer_signals():
            write_record(self._target, record)

    def try_write(self, record: Record) -> None:
        """Write a record without files; errors are ignored."""
        with suppress(TrialrunError):
            self.write(record)

    def _defer_signals(self) -> AbstractContextManager[None]:
        """Defer signals while a local database is written, which takes milliseconds.

        A transaction that an exception interrupts may keep its lock, and ending the run would then
        wait for that lock. A server manages its own transactions, and may be slow.
        """
        is_local = self._client.tracking_uri.startswith("sqlite:")
        return defer_signals() if is_local else nullcontext()

    def write_text(self, name: str, text: str) -> None:
        """Write a text as the artifact `name`."""
        with translate_tracking_errors(f"{name} cannot be stored"):
            self._client.log_text(self.run_id, text, name)

    def write_file(self, path: Path, folder: str | None) -> None:
        """Write a file as an artifact in `folder`."""
        with translate_tracking_errors(f"{path.name} cannot be stored"):
            self._client.log_artifact(self.run_id, str(path), folder)

    def write_custom(
        self, kind: str, values: Mapping[str, Any], fill: Callable[[Path], None]
    ) -> None:
        """Let the handler of `kind` write at once."""
        with scratch_directory() as scratch:
            fill(scratch / kind)
            self._results[kind] = self._handlers[kind](self._target, values, scratch / kind)

    def read_result(self, kind: str) -> Mapping[str, Any] | None:
        """Return what the handler of a custom record returned."""
        return self._results.get(kind)

    def find_timestamp(self, name: str, step: int) -> int | None:
        """Return None: only a journal knows."""
        return None

    @property
    def is_drained(self) -> bool:
        """Return True: every call waits for the store."""
        return True

    def flush(self) -> None:
        """Do nothing: the store has all records."""

    def end(self, status: str) -> None:
        """End the run."""
        with translate_tracking_errors("the run cannot be ended"):
            self._client.set_terminated(self.run_id, status)

    def fail(self, status: str, tags: Mapping[str, str]) -> None:
        """End the run after an error; errors of the store are ignored."""
        with defer_signals():
            with suppress(TrialrunError), translate_tracking_errors("tags cannot be set"):
                for name, text in tags.items():
                    self._client.set_tag(self.run_id, name, cut_tag(text))
            with suppress(TrialrunError):
                self.end(status)

    def close(self) -> None:
        """Do nothing."""


class JournalWriter:
    """Writes to the journal; a thread sends the records to the tracking store.

    What the store refuses is raised by the next call. Without a client (an offline run) nothing is
    sent until `trialrun sync`.
    """

    def __init__(
        self,
        journal: Journal,
        replayer: Replayer | None,
        *,
        run_id: str,
        flush_seconds: float,
        note: Callable[[str], None],
        start_ms: int = 0,
    ) -> None:
        self.run_id = run_id
        self.journal = journal
        self._replayer = replayer
        self._sender = Sender(replayer) if replayer else None
        self._flush_seconds = flush_seconds
        self._note = note
        self._num_raised = 0
        self._start_ms = start_ms
        self._has_given_up = replayer is None

    def start(self) -> None:
        """Start to send, what an earlier process left first."""
        self.journal.retry_refused()
        if self._sender is not None:
            self._sender.start()

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
            TrialrunError: The store refused an earlier record, or the disk is full.
        """
        self._raise_refusal()
        self.journal.append(record)

    def try_write(self, record: Record) -> None:
        """Append a record; errors are ignored, those of earlier records wait for other calls."""
        with suppress(TrialrunError):
            self.journal.append(record)

    def _raise_refusal(self) -> None:
        """Raise the first refusal that was not raised yet."""
        refusals = self._replayer.refusals if self._replayer else []
        if len(refusals) > self._num_raised:
            error = refusals[self._num_raised]
            self._num_raised = len(refusals)
            raise error

    def write_text(self, name: str, text: str) -> None:
        """Write a text as the artifact `name`."""
        folder, _, base = name.rpartition("/")
        self._write_artifact(base, folder, lambda path: _write_text(path, text))

    def write_file(self, path: Path, folder: str | None) -> None:
        """Copy a file, to be sent as an artifact in `folder`."""
        self._write_artifact(path.name, folder or "", lambda copy: _copy_file(path, copy))

    def _write_artifact(self, name: str, folder: str, fill: Callable[[Path], None]) -> None:
        self._raise_refusal()
        file = self.journal.add_file(name, fill)
        checksum = hash_payload(self.journal.find_file(file))
        self.journal.append(Record(ARTIFACT, {"file": file, "folder": folder, "xxh3": checksum}))

    def write_custom(
        self, kind: str, values: Mapping[str, Any], fill: Callable[[Path], None]
    ) -> None:
        """Append a record that a handler sends, with a folder that `fill` creates."""
        self._raise_refusal()
        self.journal.results.pop(kind, None)
        file = self.journal.add_file(kind, fill)
        self.journal.append(Record(kind, {**values, "file": file}))

    def read_result(self, kind: str) -> Mapping[str, Any] | None:
        """Return what the handler of a custom record returned; None if it was not sent yet."""
        return self.journal.results.get(kind)

    def find_timestamp(self, name: str, step: int) -> int | None:
        """Return the timestamp of the value that the journal holds, if any."""
        return self.journal.find_timestamp(name, step)

    @property
    def is_drained(self) -> bool:
        """Whether the store has all records."""
        return not self.journal.num_unsent

    def flush(self) -> None:
        """Wait until the store has all records, or does not answer for `flush_seconds`.

        Raises:
            TrialrunError: The store refused a record.
        """
        if self._sender is not None and not self._has_given_up:
            self._has_given_up = not self._sender.wait(self._flush_seconds)
        self._raise_refusal()

    def end(self, status: str) -> None:
        """End the run; what the store does not have yet remains for `trialrun sync`."""
        self.flush()
        self.journal.append(self._make_end(status))
        self.flush()
        self._note_unsent()

    def _make_end(self, status: str) -> Record:
        """Return the record of the end, which is not before the start: clocks are set back."""
        return Record(END, {"status": status, "end_time": max(now_ms(), self._start_ms)})

    def fail(self, status: str, tags: Mapping[str, str]) -> None:
        """End the run after an error; errors are ignored.

        Sends what can be sent in seconds. A run that a signal interrupts while its last records are
        sent has finished.
        """
        is_on_disk = True
        if (self.journal.end_status, status) != ("FINISHED", "KILLED"):
            records = [*make_tags(tags), self._make_end(status)]
            is_on_disk = self._try_append(records)
        seconds = _PATIENCE_SECONDS[status if is_on_disk else "KILLED"]
        if self._sender is not None:
            self._sender.wait(seconds, longest_seconds=seconds)
        if not is_on_disk:
            self._write_directly(records)
        self._note_unsent()

    def _try_append(self, records: list[Record]) -> bool:
        """Append records; return False if the disk is full or fails."""
        with suppress(TrialrunError), defer_signals():
            for record in records:
                self.journal.append(record)
            return True
        return False

    def _write_directly(self, records: list[Record]) -> None:
        """Write the last records of a run to a store that answers, without the journal."""
        target = self._replayer.target if self._replayer else None
        if target is None or not is_answering(target.client.tracking_uri):
            return
        for record in records:
            with suppress(TrialrunError):
                write_record(target, record)

    def _note_unsent(self) -> None:
        if not self.journal.num_unsent:
            return
        reason = (self._sender.outage if self._sender else None) or "the run is offline"
        self._note(
            f"{self.journal.num_unsent} records of run {self.run_id} are not in the tracking store "
            f"yet ({reason}); `trialrun sync` sends them"
        )

    def close(self) -> None:
        """Stop sending and close the journal; delete it if a finished run is in the store."""
        if self._sender is not None:
            self._sender.stop(_STOP_SECONDS)
        self.journal.close()
        if self.journal.end_status == "FINISHED" and not self.journal.num_unsent:
            self.journal.delete()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8", newline="")


def _copy_file(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)
