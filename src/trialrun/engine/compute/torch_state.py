"""Torch's process-wide and thread-wide state: set to torch's defaults for a call, then restored.

A call's result depends on its arguments alone, and its caller finds torch as it was.
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
_backends: Any = torch.backends  # torch does not declare the types of some of what is below it
# Where torch keeps `fp32_precision`, and what it is at first. Parents come first, as setting one
# may reset those below it.
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

_lock = threading.RLock()  # re-entrant: a search trains, a reproduction trains
_full_fp32_lock = threading.Lock()


@contextmanager
def isolate_torch_state() -> Iterator[None]:
    """Run a block with torch's default state, alone among the blocks of this kind in the process.

    Torch's generators, default dtype and precision flags belong to the whole process, so that
    threads take turns. A signal ends the wait of the main thread. Other code of the process that
    draws from torch's global generators at the same time still changes what the block draws.
    """
    with _lock, ExitStack() as stack:
        stack.enter_context(_restore_generators())
        stack.enter_context(_restore_flags())
        stack.enter_context(use_default_modes())
        yield


@contextmanager
def use_default_modes() -> Iterator[None]:
    """Run a block in the modes in which a thread starts, whichever the calling thread is in.

    These are autocast (off), gradients (recorded), inference mode (off) and the default device
    (the CPU). No other thread notices.
    """
    with ExitStack() as stack:
        stack.enter_context(_leave_autocast())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":  # entering costs each later call some time
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _leave_autocast() -> Iterator[None]:
    """Leave autocast at every level: inside one, torch keeps casts of weights that have changed."""
    enabled = [device for device in _AUTOCAST_DEVICES if torch.is_autocast_enabled(device)]
    depth = torch.autocast_increment_nesting()  # with our own level
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
    """Restore the global generators of torch, NumPy and Python.

    Python's is seeded anew for the block: MLflow draws names of runs from it, which would else be
    the same in each of several calls.
    """
    seed, on_cpu = torch.initial_seed(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    on_mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    of_numpy, of_python = np.random.get_state(), random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        if on_gpus is None:
            # Nothing can have been drawn yet: the caller's seed says all. Torch keeps it until it
            # needs a GPU, should it not have needed one.
            torch.cuda.manual_seed_all(seed)
        else:
            torch.cuda.set_rng_state_all(on_gpus)
        if on_mps is not None:
            torch.mps.set_rng_state(on_mps)
        torch.set_rng_state(on_cpu)


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

    The flags belong to the whole process, so that such blocks take turns. They need not last until
    the GPU has computed: it is decided when work is given to it.
    """
    if device.type != "cuda":
        yield
        return
    with _full_fp32_lock, _use_precisions(["ieee"] * len(_FP32_DEFAULTS), ("highest", False)):
        yield


@contextmanager
def _use_precisions(precisions: list[str], allowed: tuple[str, bool]) -> Iterator[None]:
    before = [each.fp32_precision for each, _ in _FP32_DEFAULTS]
    allowed_before = _read_allowed_tf32()
    _set_precisions(precisions, allowed)
    try:
        yield
    finally:
        _set_precisions(before, allowed_before)


def _read_allowed_tf32() -> tuple[str, bool] | None:
    """What torch's older settings say; None where the newer ones contradict them."""
    with suppress(RuntimeError):
        return torch.get_float32_matmul_precision(), _backends.cudnn.allow_tf32
    return None


def _set_precisions(precisions: list[str], allowed: tuple[str, bool] | None) -> None:
    """Set older and newer settings; the former change some of the latter, so they go first."""
    if allowed is not None:
        torch.set_float32_matmul_precision(allowed[0])
        _backends.cudnn.allow_tf32 = allowed[1]
    for (each, _), precision in zip(_FP32_DEFAULTS, precisions, strict=True):
        each.fp32_precision = precision
