"""Tests of the checkpoint writer: training may change tensors while they are written."""

import os
import sys
import threading
from pathlib import Path

import pytest
import torch

from trialrun.checkpoint.store import CheckpointStore
from trialrun.checkpoint.writer import CheckpointWriter
from trialrun.errors import StorageError


def test_tensors_may_change_after_submit(tmp_path: Path) -> None:
    """A checkpoint holds the values at the time of `submit`, in any memory layout."""
    store = CheckpointStore(tmp_path)
    writer = CheckpointWriter(store)
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    expected = tensor.clone()
    writer.submit({"state": {"t": tensor}}, {})
    tensor.zero_()
    writer.wait()
    writer.close()
    newest = store.read_newest()
    assert newest is not None
    assert torch.equal(newest.parts["state"]["t"], expected)
    assert writer.num_written == 1


def test_unchanged_part_is_not_copied_again(tmp_path: Path) -> None:
    """A part whose version is unchanged keeps its content, even if its tensors have changed."""
    store = CheckpointStore(tmp_path)
    writer = CheckpointWriter(store)
    best = torch.ones(3)
    for number in (1, 2):
        writer.submit({"best": {"t": best}}, {"number": number}, versions={"best": 1})
        best.zero_()
    writer.wait()
    writer.close()
    newest = store.read_newest()
    assert newest is not None
    assert newest.values == {"number": 2}
    assert newest.parts["best"]["t"].tolist() == [1, 1, 1]


def test_error_of_the_thread_reaches_the_caller(tmp_path: Path) -> None:
    """A checkpoint that cannot be written is reported by the next call."""
    file = tmp_path / "file"
    file.touch()
    writer = CheckpointWriter(CheckpointStore(file / "folder"))
    writer.submit({"state": {"t": torch.ones(1)}}, {})
    with pytest.raises(StorageError, match="cannot write"):
        writer.wait()
    writer.wait()  # the error is reported once
    writer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_writing_leaves_the_processor_to_training(tmp_path: Path) -> None:
    """The writing thread has a lower priority, and the caller keeps its own."""
    priorities = []
    own = os.getpriority(os.PRIO_PROCESS, 0)
    writer = CheckpointWriter(
        CheckpointStore(tmp_path),
        on_written=lambda _path: priorities.append(
            os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        ),
    )
    writer.submit({"state": {"t": torch.ones(3)}}, {})
    writer.close()
    assert priorities[0] > own
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
