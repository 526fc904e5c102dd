"""Tests of the checkpoint store: two intact ones remain, whatever happens during a write."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trialrun.checkpoint.store import CheckpointStore
from trialrun.errors import StorageError

PARTS = {"state": {"weights": torch.arange(6.0).reshape(2, 3)}, "other": {"values": torch.ones(4)}}


def write(store: CheckpointStore, epoch: int) -> Path:
    """Write a checkpoint whose values hold `epoch`."""
    return store.write(PARTS, {"epoch": epoch})


def list_names(folder: Path) -> list[str]:
    """Return the names of all files and folders in `folder`."""
    return sorted(path.name for path in folder.iterdir())


def test_newest_checkpoint_is_read(tmp_path: Path) -> None:
    """Tensors and values come back as they were written."""
    store = CheckpointStore(tmp_path / "c")
    assert store.read_newest() is None
    write(store, 1)
    write(store, 2)
    newest = CheckpointStore(tmp_path / "c").read_newest()
    assert newest is not None
    assert newest.values == {"epoch": 2}
    assert torch.equal(newest.parts["state"]["weights"], PARTS["state"]["weights"])


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    """Writing the third one deletes the first; no draft remains."""
    store = CheckpointStore(tmp_path / "c")
    for epoch in range(1, 5):
        write(store, epoch)
    assert [path.name for path in store.list_paths()] == ["3", "4"]
    assert list_names(tmp_path / "c") == ["3", "4"]


def test_equal_parts_share_a_file_and_checkpoints_do_not(tmp_path: Path) -> None:
    """Parts with the same tensors are written once; damage to one checkpoint spares the other."""
    store = CheckpointStore(tmp_path / "c")
    first, second = (store.write(PARTS, {}, {"copy": "state"}) for _ in range(2))
    assert (second / "copy.safetensors").samefile(second / "state.safetensors")
    assert not (first / "state.safetensors").samefile(second / "state.safetensors")
    newest = store.read_newest()
    assert newest is not None
    assert torch.equal(newest.parts["copy"]["weights"], PARTS["state"]["weights"])


@given(data=st.data())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_one_flipped_bit_is_found(tmp_path: Path, data: st.DataObject) -> None:
    """A bit that flips anywhere in the newest checkpoint makes the one before it the newest."""
    folder = tmp_path / str(time.monotonic_ns())
    store = CheckpointStore(folder)
    write(store, 1)
    newest = write(store, 2)
    file = data.draw(st.sampled_from(sorted(newest.iterdir())))
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    found = store.read_newest()
    assert found is not None
    if found.values != {"epoch": 1}:  # white space and digits of the manifest may not matter
        assert found.values == {"epoch": 2}
        assert file.name == "manifest.json"


def test_damaged_checkpoint_is_deleted_and_an_intact_one_kept(tmp_path: Path) -> None:
    """After a damaged one was deleted, the next write keeps two intact ones."""
    store = CheckpointStore(tmp_path / "c")
    write(store, 1)
    damaged = write(store, 2)
    (damaged / "state.safetensors").write_bytes(b"x")
    (problem,) = store.delete_damaged()
    assert "checksum mismatch" in problem
    write(store, 3)
    assert [path.name for path in store.list_paths()] == ["1", "2"]
    assert store.find_damaged() == []


def test_no_intact_checkpoint_is_an_error(tmp_path: Path) -> None:
    """Without an intact checkpoint nothing is deleted, and the error names the file."""
    store = CheckpointStore(tmp_path / "c")
    (write(store, 1) / "values.json").unlink()
    with pytest.raises(StorageError, match=r"no intact checkpoint is left in .*values.json"):
        store.delete_damaged()
    with pytest.raises(StorageError, match="no intact checkpoint is left"):
        store.read_newest()
    assert len(store.list_paths()) == 1


def test_failed_write_keeps_the_older_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails leaves the older checkpoints and no draft."""
    store = CheckpointStore(tmp_path / "c")
    write(store, 1)

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trialrun.files._sync_all", fail)
    with pytest.raises(StorageError, match="No space left"):
        write(store, 2)
    assert list_names(tmp_path / "c") == ["1"]
    assert store.find_damaged() == []


WRITE_FOREVER = """
    import sys, torch
    from pathlib import Path
    from trialrun.checkpoint.store import CheckpointStore

    store = CheckpointStore(Path(sys.argv[1]))
    number = int(sys.argv[2])
    while True:
        number += 1
        tensors = {"weights": torch.full((50_000,), float(number))}
        store.write({"state": tensors}, {"number": number})
        print(number, flush=True)
"""


@pytest.mark.slow
def test_killed_writer_leaves_an_intact_checkpoint(tmp_path: Path) -> None:
    """SIGKILL at any moment of a write leaves the newest complete checkpoint readable."""
    store = CheckpointStore(tmp_path / "c")
    last = 0
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITE_FOREVER), str(tmp_path / "c"), str(last)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 * attempt)
        process.send_signal(signal.SIGKILL)
        written = [int(line) for line in process.stdout.read().split()]
        process.stdout.close()
        process.wait()
        store.delete_damaged()
        newest = store.read_newest()
        assert newest is not None
        assert newest.values["number"] >= max(written, default=last)
        assert (newest.parts["state"]["weights"] == newest.values["number"]).all()
        last = newest.values["number"]
    assert 1 <= len(list_names(tmp_path / "c")) <= 3
