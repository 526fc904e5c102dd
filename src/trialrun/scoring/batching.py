"""Choice of the batch size and of the number of batches that are computed at the same time."""

import torch

from trialrun.config.settings import AUTO_TEXT
from trialrun.engine.memory.available import read_available_memory
from trialrun.scoring.features import FeatureNetwork
from trialrun.scoring.network import ScoringNetwork, TorchNetwork
from trialrun.scoring.pipeline import BatchPlan

# Pixels of a batch at which networks are fastest: on one core its activations stay in the cache; a
# GPU needs enough work for all of its units (benchmarks/scoring.py).
_CPU_BATCH_PIXELS, _GPU_BATCH_PIXELS = 16 * 224**2, 128 * 224**2
_MAX_BATCH_SIZE = 256
_OWN_SIZE_BATCH_SIZE = 32  # of networks that take images at their own size
# Bytes per pixel of the activations that exist at the same time: 24 times the input in fp32.
_BYTES_PER_PIXEL = 24 * 3 * 4
_MEMORY_SHARE = 0.25
# More threads in one process wait for Python's lock; each stream then has several threads.
_MAX_STREAMS = 8
_CHUNK_SIZE = 4


def plan_batches(network: ScoringNetwork, batch_size: int | str = AUTO_TEXT) -> BatchPlan:
    """Return the plan for scoring many images with `network`.

    With `auto`, the batch size follows from the image size and the free memory.
    """
    num_streams = _count_streams(network)
    if isinstance(batch_size, str):
        batch_size = _choose_batch_size(network, num_streams)
    num_threads = max(torch.get_num_threads() // num_streams, 1)
    return BatchPlan(batch_size, num_streams, num_threads, _CHUNK_SIZE)


def find_torch_device(network: ScoringNetwork) -> torch.device | None:
    """Return the device on which torch computes; None if something else computes."""
    return network.device if isinstance(network, TorchNetwork | FeatureNetwork) else None


def _count_streams(network: ScoringNetwork) -> int:
    """Return the number of batches to compute at once: several on CPUs with torch.

    Threads that compute one batch together wait for each other after each layer, and longer if
    decoding threads take their cores.
    """
    device = find_torch_device(network)
    if device is not None and device.type == "cpu":
        return min(torch.get_num_threads(), _MAX_STREAMS)
    return 1


def _choose_batch_size(network: ScoringNetwork, num_streams: int) -> int:
    size = network.preprocessing.image_size
    if size is None:
        return _OWN_SIZE_BATCH_SIZE
    device = find_torch_device(network) or torch.device("cpu")
    fastest = (_CPU_BATCH_PIXELS if device.type == "cpu" else _GPU_BATCH_PIXELS) // size**2
    free = _read_free_bytes(device)
    fitting = fastest
    if free is not None:
        fitting = int(free * _MEMORY_SHARE / (num_streams * size**2 * _BYTES_PER_PIXEL))
    return min(max(min(fastest, fitting), 1), _MAX_BATCH_SIZE)


def _read_free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return read_available_memory().least_bytes
