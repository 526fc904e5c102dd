"""Search for a batch size that fits in memory, by training steps that are undone."""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor

from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.compute.torch_errors import NonFiniteLossError, is_out_of_memory
from trialrun.engine.memory.accumulation import count_part_images, find_smallest_part
from trialrun.engine.memory.dry_run import load_images, preserve_training
from trialrun.engine.memory.forecast import limit_trial_images
from trialrun.engine.memory.release import clear_failed_frames, release_memory
from trialrun.engine.state import TrainState
from trialrun.engine.step import TrainingStep
from trialrun.errors import OutOfMemoryError

Result = TypeVar("Result")

_MAX_SECONDS = 30.0
# What a run on a CPU takes besides its steps: the weights of the best epoch, their copy in a
# checkpoint and the file of the model; batches that are loaded ahead; libraries that load late.
_NUM_WEIGHT_COPIES = 3
_NUM_LOADED_BATCHES = 3
_LIBRARY_BYTES = 200_000_000
_PIECE_BYTES = 4_000_000


def name_fitting_batch(
    results: Iterator[Result], state: TrainState, config: TrainConfig, ranks: Ranks
) -> Iterator[Result]:
    """Yield the results of a training; its `OutOfMemoryError` names a batch size that was tried.

    With several ranks no size is tried, because each rank would wait for the others.

    Raises:
        OutOfMemoryError: The training ran out of memory.
    """
    try:
        yield from results
    except OutOfMemoryError as error:
        clear_failed_frames(error)
        failure = error
    else:
        return
    if ranks.world_size == 1:
        with suppress(NonFiniteLossError, RuntimeError):  # the error to report is `failure`
            failure.hint = _describe_fitting(find_fitting_batch(state, config), config)
    raise failure


def find_fitting_batch(
    state: TrainState, config: TrainConfig, max_seconds: float = _MAX_SECONDS
) -> int | None:
    """Return the largest number of images for which a training step fits; None if none does.

    The sizes are halves, quarters and so on of the batch, or of its parts. The smallest are tried
    first, because they are the fastest, until one does not fit or time is short.

    Raises:
        NonFiniteLossError: The loss is not finite.
    """
    release_memory()
    started, fitting = time.monotonic(), None
    for num_images in _list_sizes(state, config):
        before = time.monotonic()
        if not _try_step(state, config, num_images):
            break
        fitting = num_images
        now = time.monotonic()
        if now - started + 2 * (now - before) > max_seconds:
            break
    return fitting


def _list_sizes(state: TrainState, config: TrainConfig) -> list[int]:
    """Return the sizes below the one that failed, in ascending order."""
    smallest = find_smallest_part(state)
    size, sizes = count_part_images(config, state) // 2, []
    while size >= smallest:
        sizes.append(size)
        size //= 2
    if not sizes:
        return []
    limit = limit_trial_images(state, config)
    return [size for size in reversed(sizes) if size <= limit or size == sizes[-1]]


def _try_step(state: TrainState, config: TrainConfig, num_images: int) -> bool:
    """Whether a step in parts of `num_images` images fits in memory."""
    try:
        with preserve_training(state):
            _train_in_parts(state, config, num_images)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        clear_failed_frames(error)
    else:
        return True
    finally:
        release_memory()
    return False


def _train_in_parts(state: TrainState, config: TrainConfig, num_images: int) -> None:
    """Run the first two parts of a step, in which the second meets the gradients of the first."""
    reserve = _allocate_reserve(state, config)
    state.num_parts = 2
    batch = load_images(state, 2 * num_images)
    step = TrainingStep(state, config, SINGLE_PROCESS, epoch=state.epoch + 1)
    step.compute_gradients(batch, 2 * num_images)
    del batch
    # A fused optimizer allocates its state, but skips the step.
    optimizer = state.optimizer
    optimizer.found_inf = torch.ones((), device=state.compute.device)  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
    del reserve


def _allocate_reserve(state: TrainState, config: TrainConfig) -> list[Tensor]:
    """Allocate what a step has in memory besides the tensors of its parts."""
    stored = load_images(state, 1).pixels.nbytes * config.batch_size
    size = state.data.preprocessing.image_size
    inputs = 4 * (stored if size is None else 3 * size * size * config.batch_size)
    reserve = [torch.empty(inputs, dtype=torch.uint8, device=state.compute.device)]
    if state.compute.device.type == "cpu":
        weights = sum(value.nbytes for value in state.network.state_dict().values())
        num_bytes = _NUM_WEIGHT_COPIES * weights + _NUM_LOADED_BATCHES * stored + _LIBRARY_BYTES
        # In pieces: the heap has gaps after the step that failed.
        reserve += [
            torch.empty(_PIECE_BYTES, dtype=torch.uint8) for _ in range(num_bytes // _PIECE_BYTES)
        ]
    return reserve


def _describe_fitting(num_images: int | None, config: TrainConfig) -> str:
    if num_images is None:
        return "No smaller batch fits either (tried): set a smaller image_size, or another model."
    num_parts = -(-config.batch_size // num_images)
    return (
        f"Set batch_size={num_images}, which fits (tried), or keep the batch and set "
        f"accumulate_steps={num_parts}."
    )
