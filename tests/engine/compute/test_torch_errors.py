"""Tests of oneDNN's errors, which do not say whether memory was short."""

import pytest

from trialrun.engine.compute import torch_errors
from trialrun.engine.compute.torch_errors import is_out_of_memory
from trialrun.engine.memory.available import AvailableMemory


@pytest.mark.parametrize(("available", "expected"), [(10**8, True), (10**11, False), (None, False)])
def test_failed_primitive_is_a_lack_of_memory_if_little_is_left(
    available: int | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that forbids generated code raises the same error with plenty of memory."""
    memory = AvailableMemory(available, None)
    monkeypatch.setattr(torch_errors, "read_available_memory", lambda: memory)
    assert is_out_of_memory(RuntimeError("could not create a primitive")) is expected
    assert not is_out_of_memory(
        RuntimeError("could not create a primitive descriptor for a matmul")
    )
