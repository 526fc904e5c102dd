"""The journal of a run on disk."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun.errors import StorageError
from trialrun.tracking.journal import Journal, count_unsent, find_failure, read_records
from trialrun.tracking.records import END, TAGS, Record, make_metrics

TEXTS = st.lists(st.text(max_size=20), min_size=1, max_size=5)


def make_tag(text: str) -> Record:
    """Return a record with one tag."""
    return Record(TAGS, {"tags": {"a": text}})


@contextmanager
def write_journal(texts: list[str]) -> Iterator[Path]:
    """Write a journal with one record per text; yield its folder."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "journal"
        with closing(Journal(folder)) as journal:
            for text in texts:
                journal.append(make_tag(text))
        yield folder


@settings(max_examples=50)
@given(texts=TEXTS, data=st.data())
def test_torn_last_line_is_dropped(texts: list[str], data: Any) -> None:
    """After a kill at any byte, all complete records are there, and appending goes on."""
    with write_journal(texts) as folder:
        path = folder / "records.jsonl"
        content = path.read_bytes()
        length = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:length])
        num_complete = content[:length].count(b"\n")
        with closing(Journal(folder)) as journal:
            journal.append(make_tag("next"))
        expected = [make_tag(text) for text in [*texts[:num_complete], "next"]]
        assert read_records(path)[0] == expected


@settings(max_examples=50)
@given(texts=TEXTS, data=st.data())
def test_damage_is_reported_unless_it_is_in_the_last_line(texts: list[str], data: Any) -> None:
    """A flipped bit drops the last record, or is an error; it never changes or skips a record."""
    with write_journal(texts) as folder:
        path = folder / "records.jsonl"
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(bytes(content))
        in_line = bytes(content[:place]).count(b"\n")
        try:
            records, _ = read_records(path)
        except StorageError:
            assert in_line < len(texts)
        else:
            assert records == [make_tag(text) for text in texts[: len(records)]]
            assert len(records) in (in_line, in_line - 1)


def test_acknowledged_records_are_not_pending_again(tmp_path: Path) -> None:
    """Another process continues where the last one stopped; results of records are kept."""
    with closing(Journal(tmp_path)) as journal:
        for number in range(3):
            journal.append(make_tag(str(number)))
        journal.acknowledge([1, 2], {"model": {"model_id": "m-1"}})
    with closing(Journal(tmp_path)) as journal:
        assert [number for number, _ in journal.list_pending()] == [3]
        assert journal.results == {"model": {"model_id": "m-1"}}


def test_refused_records_wait_for_another_attempt(tmp_path: Path) -> None:
    """A refused record holds nothing up, but remains unsent."""
    with closing(Journal(tmp_path)) as journal:
        for number in range(3):
            journal.append(make_tag(str(number)))
        journal.refuse(1)
        journal.acknowledge([2, 3])
        assert (journal.num_pending, journal.num_unsent) == (0, 1)
    with closing(Journal(tmp_path)) as journal:
        assert journal.num_pending == 0
        journal.retry_refused()
        assert [number for number, _ in journal.list_pending()] == [1]


def test_acknowledgements_after_closing_are_ignored(tmp_path: Path) -> None:
    """A thread that still waits for the server cannot change what another process does."""
    journal = Journal(tmp_path)
    journal.append(make_tag("a"))
    journal.close()
    journal.acknowledge([1])
    with closing(Journal(tmp_path)) as other:
        assert other.num_pending == 1


def test_sent_files_are_deleted(tmp_path: Path) -> None:
    """The copy of an artifact lives until the store has it."""
    with closing(Journal(tmp_path)) as journal:
        file = journal.add_file("a.txt", lambda path: _write(path, "text"))
        journal.append(Record("artifact", {"file": file, "folder": "", "xxh3": ""}))
        assert journal.find_file(file).read_text() == "text"
        journal.acknowledge([1])
        assert not journal.find_file(file).parent.exists()


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def test_timestamps_of_metrics_survive(tmp_path: Path) -> None:
    """A resumed run finds the first timestamp of a step."""
    with closing(Journal(tmp_path)) as journal:
        for record in (*make_metrics({"a": 1}, 2, 77), *make_metrics({"a": 1}, 2, 99)):
            journal.append(record)
    with closing(Journal(tmp_path)) as journal:
        assert journal.find_timestamp("a", 2) == 77
        assert journal.find_timestamp("a", 3) is None


def test_status_is_that_of_the_last_process(tmp_path: Path) -> None:
    """A run that was opened again has no final status."""
    with closing(Journal(tmp_path)) as journal:
        journal.append(Record(END, {"status": "KILLED", "end_time": 1}))
        assert journal.end_status == "KILLED"
        journal.append(Record("reopen", {}))
    with closing(Journal(tmp_path)) as journal:
        assert journal.end_status is None


def test_lost_progress_sends_everything_again(tmp_path: Path) -> None:
    """Sending twice is harmless; skipping is not."""
    with closing(Journal(tmp_path)) as journal:
        journal.append(make_tag("a"))
        journal.acknowledge([1])
    (tmp_path / "sent.json").write_text("{")
    with closing(Journal(tmp_path)) as journal:
        assert journal.num_pending == 1


def test_journal_of_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"records\.jsonl"):
        Journal(tmp_path / "file" / "journal")


def test_unsent_records_are_counted_without_a_change(tmp_path: Path) -> None:
    """Refused records count, and an incomplete last line does not."""
    journal = Journal(tmp_path)
    for step in range(4):
        journal.append(Record("tags", {"tags": {"step": str(step)}}))
    journal.refuse(1)
    journal.acknowledge([2])
    assert count_unsent(tmp_path) == journal.num_unsent == 3
    journal.close()
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(b"incomplete")
    size = (tmp_path / "records.jsonl").stat().st_size
    assert count_unsent(tmp_path) == 3
    assert (tmp_path / "records.jsonl").stat().st_size == size


def test_failure_is_that_of_the_last_process(tmp_path: Path) -> None:
    """An interruption is none, and neither is the error of a run that was opened again."""
    journal = Journal(tmp_path)
    assert find_failure(tmp_path) is None
    journal.append(Record("tags", {"tags": {"error": "NonFiniteLossError: x"}}))
    assert find_failure(tmp_path) == "NonFiniteLossError: x"
    journal.append(Record("reopen", {}))
    assert find_failure(tmp_path) is None
    journal.append(Record("tags", {"tags": {"error": "by SIGTERM", "stop_reason": "killed"}}))
    assert find_failure(tmp_path) is None
    journal.close()
