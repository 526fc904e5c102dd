"""Writes checkpoints in a thread while training continues."""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from trialrun.checkpoint.store import CheckpointStore, Parts

_NO_BUFFERS: Mapping[str, Tensor] = MappingProxyType({})
_NO_VERSIONS: Mapping[str, int] = MappingProxyType({})
_NO_EQUALS: Mapping[str, str] = MappingProxyType({})
# On two cores, a thread of normal priority beside two threads of torch makes every step wait for
# the interrupted one: ten times the processor time of writing (benchmarks/recovery.py).
_NICENESS = 10


def _ignore_path(_path: Path) -> None:
    """Do nothing."""


def _lower_priority() -> None:
    """Let this thread use the processor only a little while others need it."""
    if sys.platform == "linux":  # elsewhere, this would change the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _start_executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="checkpoints", initializer=_lower_priority)


@dataclass(slots=True)
class CheckpointWriter:
    """Copies tensors in the caller's thread, and writes the copies in a thread of its own.

    Training may change the tensors as soon as `submit` returns. `waited_seconds` is the time that
    the caller spent in `submit` and `wait`, `written_seconds` that of the writing thread, and
    `processor_seconds` the thread's time on a processor.
    """

    store: CheckpointStore
    on_written: Callable[[Path], None] = _ignore_path  # called in the thread
    num_written: int = 0
    waited_seconds: float = 0.0
    written_seconds: float = 0.0
    processor_seconds: float = 0.0
    _buffers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _versions: dict[str, int | None] = field(default_factory=dict)
    _executor: ThreadPoolExecutor = field(default_factory=_start_executor)
    _pending: "Future[Path] | None" = None

    def submit(
        self,
        parts: Parts,
        values: Mapping[str, Any],
        *,
        versions: Mapping[str, int] = _NO_VERSIONS,
        equal_parts: Mapping[str, str] = _NO_EQUALS,
    ) -> None:
        """Copy `parts` and start writing them; first wait for the previous checkpoint.

        Args:
            parts: Tensors by part and name, in any memory.
            values: Plain values for JSON.
            versions: Numbers of parts that change rarely. A part with the number of an earlier call
                is not copied again.
            equal_parts: Parts that need no copy (see `CheckpointStore.write`).

        Raises:
            StorageError: The previous checkpoint could not be written.
        """
        started = time.perf_counter()
        self._finish_pending()
        copies = {
            name: self._copy(name, tensors, versions.get(name))
            for name, tensors in parts.items()
            if name not in equal_parts
        }
        self._pending = self._executor.submit(self._write, copies, dict(values), dict(equal_parts))
        self.waited_seconds += time.perf_counter() - started

    def _copy(
        self, name: str, tensors: Mapping[str, Tensor], version: int | None
    ) -> dict[str, Tensor]:
        if version is None or version != self._versions.get(name):
            self._buffers[name] = copy_tensors(tensors, self._buffers.get(name, {}))
            self._versions[name] = version
        return self._buffers[name]

    def wait(self) -> None:
        """Wait until everything submitted is on the disk.

        Raises:
            StorageError: It could not be written.
        """
        started = time.perf_counter()
        try:
            self._finish_pending()
        finally:
            self.waited_seconds += time.perf_counter() - started

    def close(self) -> None:
        """Wait for the thread and end it; errors of a checkpoint not yet reported are dropped."""
        self._executor.shutdown(wait=True)
        self._buffers.clear()

    def _finish_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, parts: Parts, values: dict[str, Any], equal_parts: dict[str, str]) -> Path:
        started, processor_started = time.perf_counter(), time.thread_time()
        path = self.store.write(parts, values, equal_parts)
        self.num_written += 1
        self.written_seconds += time.perf_counter() - started
        self.processor_seconds += time.thread_time() - processor_started
        self.on_written(path)
        return path


def copy_tensors(
    tensors: Mapping[str, Tensor], buffers: Mapping[str, Tensor] = _NO_BUFFERS
) -> dict[str, Tensor]:
    """Copy tensors into contiguous CPU memory, that of `buffers` where it fits."""
    copies = {}
    for name, tensor in tensors.items():
        buffer = buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype)
        copies[name] = buffer.copy_(tensor.detach())
    return copies
