"""Forecast of the memory that a training step needs on a CPU, before the step is tried.

Linux kills a process that takes more memory than there is, instead of failing its allocation. Under
a limit of the process (`ulimit -v`) allocations fail, but oneDNN then ends some processes by
SIGSEGV. The forecast counts the values that the forward pass keeps for the backward pass. A step
needs all of them, and more: 1.1 (DenseNet-121) to 1.6 times as much (ResNet-18), and gradients and
copies of the weights, in nine networks of torchvision at 224 pixels.
"""

import math

import torch
from torch import Tensor

from trialrun.config import AUTO_TEXT, TrainConfig
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.compute.torch_errors import is_out_of_memory
from trialrun.engine.memory.accumulation import count_max_parts, count_part_images
from trialrun.engine.memory.available import AvailableMemory, read_available_memory
from trialrun.engine.memory.dry_run import load_images, preserve_training
from trialrun.engine.memory.release import clear_failed_frames
from trialrun.engine.state import TrainState
from trialrun.engine.step import TrainingStep
from trialrun.errors import OutOfMemoryError

# The highest number of bytes per byte of input that any network is assumed to keep. Measured at 224
# pixels: 37 (ResNet-18) to 217 (DenseNet-121). Batches that need less than is available even with
# this number are not measured, which takes time.
_MAX_KEPT_PER_INPUT_BYTE = 1000
_MAX_STEP_PER_KEPT = 1.6
_TRIAL_PER_KEPT = 2.0  # so that a size that was tried is not refused later
_NUM_WEIGHT_COPIES = 3  # gradients, the optimizer's state, weights in another layout
# A limit of the process counts addresses, some of which the rest of the run takes: checkpoints,
# libraries that are loaded later, heaps of threads.
_REST_OF_RUN_BYTES = 300 * 10**6
_GIGABYTE = 1e9


def check_batch_fits(state: TrainState, config: TrainConfig) -> None:
    """Raise if a batch exceeds the available memory; `auto` sets the number of parts instead.

    The machine must lack memory for what a step certainly needs; a limit of the process, for what
    it may need. Does nothing for a GPU, which reports a lack of memory itself.

    Raises:
        OutOfMemoryError: The batch does not fit.
    """
    available = _read_available_memory(state)
    if not _may_exceed(state, config, available):
        return
    bytes_per_image = measure_bytes_per_image(state, config)
    if config.accumulate_steps == AUTO_TEXT:
        _increase_parts(state, config, _count_fitting(state, available, bytes_per_image))
        return
    num_images = count_part_images(config, state)
    certain = int(num_images * bytes_per_image)
    likely = int(certain * _MAX_STEP_PER_KEPT) + _count_weight_bytes(state)
    for needed, limit in (
        (certain, available.machine_bytes),
        (likely, available.process_bytes),
    ):
        if limit is not None and needed > limit:
            raise OutOfMemoryError(
                f"a batch of {num_images} images needs about {likely / _GIGABYTE:.1f} GB of "
                f"memory, and {limit / _GIGABYTE:.1f} GB are available",
                "Set a smaller batch_size, or more accumulate_steps.",
            )


def limit_trial_images(state: TrainState, config: TrainConfig) -> float:
    """Return the number of images that a trial step can have without being killed."""
    available = _read_available_memory(state)
    if not _may_exceed(state, config, available):
        return math.inf
    try:
        return _count_fitting(state, available, measure_bytes_per_image(state, config))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        clear_failed_frames(error)
        return 0


def measure_bytes_per_image(state: TrainState, config: TrainConfig) -> float:
    """Return the bytes per image that a forward pass keeps for the backward pass."""
    two, four = (_measure_kept_bytes(state, config, num_images) for num_images in (2, 4))
    return max(four - two, 2) / 2  # the difference leaves out what does not depend on the batch


def _read_available_memory(state: TrainState) -> AvailableMemory:
    on_cpu = state.compute.device.type == "cpu"
    return read_available_memory() if on_cpu else AvailableMemory(None, None)


def _may_exceed(state: TrainState, config: TrainConfig, available: AvailableMemory) -> bool:
    """Whether measuring is worthwhile."""
    if available.least_bytes is None:
        return False
    size = state.data.preprocessing.image_size
    pixels_per_image = load_images(state, 1).pixels.numel() if size is None else 3 * size * size
    input_bytes = count_part_images(config, state) * pixels_per_image * 4
    most = input_bytes * _MAX_KEPT_PER_INPUT_BYTE + _count_weight_bytes(state)
    return most > available.least_bytes


def _count_fitting(state: TrainState, available: AvailableMemory, bytes_per_image: float) -> float:
    """Return the number of images of a step that fits, with room for error."""
    process_bytes = available.process_bytes
    if process_bytes is not None:
        process_bytes -= _REST_OF_RUN_BYTES
    least_bytes = AvailableMemory(available.machine_bytes, process_bytes).least_bytes
    assert least_bytes is not None
    return max(least_bytes - _count_weight_bytes(state), 0) / bytes_per_image / _TRIAL_PER_KEPT


def _count_weight_bytes(state: TrainState) -> int:
    trained = (p.nbytes for p in state.trainable.parameters() if p.requires_grad)
    return _NUM_WEIGHT_COPIES * sum(trained)


def _increase_parts(state: TrainState, config: TrainConfig, max_images: float) -> None:
    """Double the number of parts until they have at most `max_images`, or cannot get smaller."""
    num_images = min(config.batch_size, len(state.data.train))
    max_parts = count_max_parts(num_images, state)
    while state.num_parts < max_parts and count_part_images(config, state) > max_images:
        state.num_parts = min(2 * state.num_parts, max_parts)


def _measure_kept_bytes(state: TrainState, config: TrainConfig, num_images: int) -> int:
    """Return the bytes that the forward pass of a small batch keeps, without the weights."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with preserve_training(state):
        step = TrainingStep(state, config, SINGLE_PROCESS, epoch=1)
        part = step.prepare_inputs(load_images(state, num_images))
        inputs = state.compute.to_memory_format(part.inputs)
        keeping = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with keeping, state.compute.autocast():
            outputs = state.trainable(inputs)  # not the wrapper for several ranks, which waits
        del outputs  # holds the kept tensors until here, so that no two share an address
    weights = {parameter.untyped_storage().data_ptr() for parameter in state.network.parameters()}
    return sum(num_bytes for pointer, num_bytes in kept.items() if pointer not in weights)
