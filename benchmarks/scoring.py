"""Scoring speed from decoded images and from JPEG files, and memory over 20,000 images.

    python -m benchmarks.scoring [--rounds 3] [--models resnet18 ...] [--memory-images 20000]

The limit is the network alone: a bare forward pass over batches that stay in memory, in the best of
two memory orders and several batch sizes, by one thread per core or by all of them together.
`decoded` is `scoring.pipeline.score_batches` on pixels that are in memory, `JPEG` on files:
reading, decoding, resizing, normalization and the network. Scoring folds batch norms and
activations into convolutions, so it can be faster than the network as it was trained: `folded` is
the limit of that form alone.

Decoding alone uses all cores, and so does the network alone. With both at work, an image costs the
sum of both processor times, so no order of the work is faster than 1 / (1 / decoding + 1 / folded),
`shared`. With d images/s from decoding and e from the network that is d / (d + e) of e: 0.9 of the
slower one is reached only if the faster one is at least nine times as fast. `of shared` is the part
of this limit that scoring reaches; `of slower` is relative to the slower of decoding and the
network as it was trained. The measurements of one round follow each other at once, and the ratios
are medians over the rounds, because other programs may run. `CPU` ratios compare processor seconds
per image instead of elapsed ones, which other programs change less.
"""

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.photos import write_photos
from benchmarks.table import format_table, make_heading
from trialrun.engine.compute.openmp import limit_spinning
from trialrun.images import ImageItem, ImageSet
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription, write_model_directory
from trialrun.models.weights.serialization import serialize_state
from trialrun.models.zoo.networks import build_network
from trialrun.runs.scoring.images import decode_file
from trialrun.scoring.batching import plan_batches
from trialrun.scoring.network import ScoringNetwork, TorchNetwork, prepare_network
from trialrun.scoring.pipeline import score_batches

MODELS = ("resnet18", "resnet50", "densenet121", "mobilenet_v2", "mobilenet_v3_small")
NUM_PHOTOS, SIZE = 256, 224
BATCH_SIZES = (8, 16, 32)
CLASSES = ("china", "flower")
Item = TypeVar("Item")

CPU = torch.device("cpu")
NUM_SMALL, SMALL_SIZE = 20_000, 48
_SAMPLE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Speed:
    """Images per elapsed second, and per second of processor time on one core."""

    wall: float
    cpu: float


# network alone, folded network alone, from pixels, decoding alone, from JPEG
Round = tuple[Speed, Speed, Speed, Speed, Speed]

COLUMNS = (
    "network alone",
    "folded",
    "decoded",
    "of network",
    "of folded",
    "CPU",
    "decoding alone",
    "shared",
    "JPEG",
    "of shared",
    "CPU",
    "of slower",
)


def list_values(measured: Round) -> list[float]:
    """Return the columns of the table for one round."""
    limit, folded, decoded, decoding, jpeg = measured
    shared = 1 / (1 / decoding.wall + 1 / folded.wall)
    return [
        limit.wall,
        folded.wall,
        decoded.wall,
        decoded.wall / limit.wall,
        decoded.wall / folded.wall,
        decoded.cpu / folded.cpu,
        decoding.wall,
        shared,
        jpeg.wall,
        jpeg.wall / shared,
        jpeg.cpu * (1 / decoding.cpu + 1 / folded.cpu),
        jpeg.wall / min(decoding.wall, limit.wall),
    ]


def measure_speed(work: Callable[[], object], num_images: int) -> Speed:
    """Return the speed of `work` on `num_images` images."""
    started, cpu_started = time.perf_counter(), time.process_time()
    work()
    elapsed, cpu_elapsed = time.perf_counter() - started, time.process_time() - cpu_started
    return Speed(num_images / elapsed, num_images / cpu_elapsed)


def exhaust(items: Iterable[object]) -> None:
    """Compute all items."""
    for _ in items:
        pass


def copy_layouts(network: nn.Module) -> dict[torch.memory_format, nn.Module]:
    """Return copies of a network in two memory orders."""
    layouts = (torch.contiguous_format, torch.channels_last)
    return {layout: copy.deepcopy(network).to(memory_format=layout) for layout in layouts}


def choose_limit(
    networks: Mapping[torch.memory_format, nn.Module], num_images: int
) -> Callable[[], Speed]:
    """Return the measurement of a network alone in its fastest form."""
    measurements = []
    for layout, module in networks.items():
        for batch_size in BATCH_SIZES:
            images = torch.randn(batch_size, 3, SIZE, SIZE).contiguous(memory_format=layout)
            measurements += [
                partial(measure, module, images, num_images)
                for measure in (_measure_together, _measure_streams)
            ]
    return max(measurements, key=lambda measure: max(measure().cpu for _ in range(2)))


def _measure_together(network: nn.Module, images: Tensor, num_images: int) -> Speed:
    num_batches = num_images // len(images)

    def compute() -> None:
        with torch.inference_mode():
            exhaust(network(images) for _ in range(num_batches))

    return measure_speed(compute, num_batches * len(images))


def _measure_streams(network: nn.Module, images: Tensor, num_images: int) -> Speed:
    num_threads, num_batches = torch.get_num_threads(), num_images // len(images)

    def compute(_batch: int) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            network(images)

    with ThreadPoolExecutor(count_threads()) as pool:
        exhaust(pool.map(compute, range(count_threads())))
        speed = measure_speed(
            lambda: exhaust(pool.map(compute, range(num_batches))), num_batches * len(images)
        )
    torch.set_num_threads(num_threads)
    return speed


def measure_rounds(model: str, images: ImageSet, num_rounds: int) -> Iterator[Round]:
    """Yield all speeds of one network, once per round."""
    items = images.items
    network = build_network(model, len(CLASSES), image_size=SIZE).eval()
    measure_limit = choose_limit(copy_layouts(network), len(items) // 2)
    classifier = ImageClassifier(network, CLASSES, Preprocessing(SIZE)).eval()
    scorer = prepare_network(classifier, CPU)
    assert isinstance(scorer, TorchNetwork)
    measure_folded = choose_limit({torch.channels_last: scorer.classifier}, len(items) // 2)
    decode = partial(decode_file, images, scorer.preprocessing)
    score(scorer, items[:64], decode)
    with ThreadPoolExecutor(count_threads()) as pool:
        pixels = list(pool.map(decode, items))
        for _ in range(num_rounds):
            yield (
                measure_limit(),
                measure_folded(),
                measure_speed(lambda: score(scorer, pixels, lambda image: image), len(items)),
                measure_speed(lambda: exhaust(pool.map(decode, items)), len(items)),
                measure_speed(lambda: score(scorer, items, decode), len(items)),
            )


def score(
    network: ScoringNetwork, items: Iterable[Item], decode: Callable[[Item], Tensor | str]
) -> None:
    """Score items as `trialrun score` does, without a table."""
    exhaust(score_batches(network, items, decode, plan_batches(network)))


def print_speeds(models: Sequence[str], num_rounds: int) -> None:
    """Measure the networks and print one line for each of them."""
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        photos = write_photos(Path(scratch), NUM_PHOTOS, seed=1)
        names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
        images = ImageSet(str(photos), photos, tuple(map(ImageItem, names)))
        for model in models:
            rounds = map(list_values, measure_rounds(model, images, num_rounds))
            rows.append([model, *(statistics.median(column) for column in zip(*rounds))])  # noqa: B905
    heading = make_heading(f"Scoring {NUM_PHOTOS} photos at {SIZE} pixels, images/s")
    sys.stdout.write(heading + "\n" + format_table(("model", *COLUMNS), rows))


def write_small_images(folder: Path, num_images: int) -> Path:
    """Write JPEG files of random pixels; thousands of names share the bytes of few images."""
    random = np.random.default_rng(3)
    folder.mkdir(parents=True)
    sources = []
    for number in range(64):
        pixels = random.integers(0, 256, (SMALL_SIZE, SMALL_SIZE, 3), dtype=np.uint8)
        sources.append(folder / f"source{number:02}.jpg")
        Image.fromarray(pixels).save(sources[-1])
    for number in range(num_images - len(sources)):
        (folder / f"{number:08}.jpg").write_bytes(sources[number % len(sources)].read_bytes())
    return folder


def sample_memory(process: subprocess.Popen[bytes]) -> Iterator[tuple[float, float]]:
    """Yield seconds and resident megabytes of a process until it ends."""
    import psutil

    started = time.perf_counter()
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            yield time.perf_counter() - started, watched.memory_info().rss / 1e6
        except psutil.Error:
            return
        time.sleep(_SAMPLE_SECONDS)


def print_memory(num_images: int) -> None:
    """Score many images in a process and print the slope of its memory over the second half."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = write_small_images(folder / "data", num_images)
        network = build_network("shufflenet_v2_x0_5", 2, image_size=SMALL_SIZE)
        description = ModelDescription("shufflenet_v2_x0_5", {}, CLASSES, Preprocessing(SMALL_SIZE))
        state = serialize_state(network.state_dict())
        write_model_directory(folder / "model", description, state)
        output = folder / "scored.csv"
        command = [sys.executable, "-m", "trialrun", "score", str(folder / "model"), str(data)]
        process = subprocess.Popen([*command, "--output", str(output)])
        samples = [sample for sample in sample_memory(process) if sample[1]]  # 0 when it has ended
    half = samples[len(samples) // 2 :]
    slope = float(np.polyfit([t for t, _ in half], [mb for _, mb in half], 1)[0])
    seconds = samples[-1][0]
    sys.stdout.write(
        f"{num_images} images in {seconds:.0f} s: {half[0][1]:.0f} MB at half of the time, "
        f"{half[-1][1]:.0f} MB at the end, at most {max(mb for _, mb in samples):.0f} MB; slope "
        f"{slope:+.3f} MB/s, {slope * seconds / num_images * 1000:+.3f} MB per 1,000 images\n"
    )


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--memory-images", type=int, default=NUM_SMALL)
    arguments = parser.parse_args()
    if arguments.models:
        print_speeds(arguments.models, arguments.rounds)
    if arguments.memory_images:
        print_memory(arguments.memory_images)
    return 0


if __name__ == "__main__":
    limit_spinning()
    sys.exit(main())
