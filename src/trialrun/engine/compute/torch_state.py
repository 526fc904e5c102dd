"""Isolation of torch's process-wide and thread-wide state during a library call.

A call starts with torch's default state, so its result depends on its arguments alone. Afterwards
the caller's state is restored.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps")
_CUDNN_FLAGS = ("enabled", "benchmark", "deterministic")
_backends: Any = torch.backends  # torch does not declare the types of all its members
# The objects that have `fp32_precision`, and its default. Parents come first, because setting one
# may reset its children.
_FP32_DEFAULTS = (
    (_backends, "none"),
    (_backends.cudnn, "none"),
    (_backends.mkldnn, "none"),
    (_backends.cuda.matmul, "none"),
    (_backends.cudnn.conv, "tf32"),
    (_backends.cudnn.rnn, "tf32"),
    (_backends.mkldnn.matmul, "none"),
    (_backends.mkldnn.conv, "none"),
    (_backends.mkldnn.rnn, "none"),
)
_ALLOWED_DEFAULTS = ("highest", True)

_lock = threading.RLock()  # re-entrant: a search and a reproduction call training
_full_fp32_lock = threading.Lock()


@contextmanager
def isolate_torch_state() -> Iterator[None]:
    """Run a block with torch's default state; only one such block runs in the process at a time.

    Torch's generators, default dtype and precision flags belong to the whole process, so other
    threads wait. A signal interrupts the wait of the main thread. Other code that draws from
    torch's global generators at the same time still changes the block's draws.
    """
    with _lock, ExitStack() as stack:
        stack.enter_context(_restore_generators())
        stack.enter_context(_restore_flags())
        stack.enter_context(use_default_modes())
        yield


@contextmanager
def use_default_modes() -> Iterator[None]:
    """Run a block in the modes of a new thread, whatever the modes of the calling thread.

    These are autocast (off), gradients (recorded), inference mode (off) and the default device
    (the CPU). Other threads are not affected.
    """
    with ExitStack() as stack:
        stack.enter_context(_leave_autocast())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":  # entering slows every later call down
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _leave_autocast() -> Iterator[None]:
    """Leave all levels of autocast: inside one, torch caches casts of weights that then change."""
    enabled = [device for device in _AUTOCAST_DEVICES if torch.is_autocast_enabled(device)]
    depth = torch.autocast_increment_nesting()  # including the level just added
    for _ in range(depth):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    for device in enabled:
        torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        for device in enabled:
            torch.set_autocast_enabled(device, True)
        for _ in range(depth - 1):
            torch.autocast_increment_nesting()


@contextmanager
def _restore_generators() -> Iterator[None]:
    """Restore the global generators of torch, NumPy and Python after the block.

    Python's is reseeded for the block: MLflow draws run names from it, and several calls would
    otherwise draw the same name.
    """
    seed, cpu_state = torch.initial_seed(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    numpy_state, python_state = np.random.get_state(), random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if cuda_states is None:
            # CUDA was not initialized, so nothing was drawn and the seed describes its generators.
            # If it still is not, torch applies the seed once it initializes CUDA.
            torch.cuda.manual_seed_all(seed)
        else:
            torch.cuda.set_rng_state_all(cuda_states)
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)
        torch.set_rng_state(cpu_state)


@contextmanager
def _restore_flags() -> Iterator[None]:
    """Restore default dtype, threads, and the flags of cuDNN and of reduced fp32 precision."""
    dtype, num_threads = torch.get_default_dtype(), torch.get_num_threads()
    flags = {name: getattr(_backends.cudnn, name) for name in _CUDNN_FLAGS}
    torch.set_default_dtype(torch.float32)
    try:
        with _use_precisions([default for _, default in _FP32_DEFAULTS], _ALLOWED_DEFAULTS):
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)
        for name, value in flags.items():
            setattr(_backends.cudnn, name, value)


@contextmanager
def use_full_fp32(device: torch.device) -> Iterator[None]:
    """Run a block without TF32, which only CUDA devices have.

    The flags belong to the whole process, so only one such block runs at a time. They can be
    restored before the GPU has finished: torch reads them when it queues the work.
    """
    if device.type != "cuda":
        yield
        return
    with _full_fp32_lock, _use_precisions(["ieee"] * len(_FP32_DEFAULTS), ("highest", False)):
        yield


@contextmanager
def _use_precisions(precisions: list[str], allowed: tuple[str, bool]) -> Iterator[None]:
    before = [backend.fp32_precision for backend, _ in _FP32_DEFAULTS]
    allowed_before = _read_allowed_tf32()
    _set_precisions(precisions, allowed)
    try:
        yield
    finally:
        _set_precisions(before, allowed_before)


def _read_allowed_tf32() -> tuple[str, bool] | None:
    """Read torch's older settings; None if the newer ones contradict them."""
    with suppress(RuntimeError):
        return torch.get_float32_matmul_precision(), _backends.cudnn.allow_tf32
    return None


def _set_precisions(precisions: list[str], allowed: tuple[str, bool] | None) -> None:
    """Set torch's older settings, then its newer ones, some of which the older ones change."""
    if allowed is not None:
        torch.set_float32_matmul_precision(allowed[0])
        _backends.cudnn.allow_tf32 = allowed[1]
    for (backend, _), precision in zip(_FP32_DEFAULTS, precisions, strict=True):
        backend.fp32_precision = precision
