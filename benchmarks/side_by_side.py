"""How much a training slows another process down on the same cores, by OpenMP's spin count.

    python -m benchmarks.side_by_side [--spin-counts default,1500] [--sizes 32,64,128] [--rounds 3]

Threads of GNU OpenMP spin while they wait for work, by default so long that two trainings on the
same cores take the cores from each other. GOMP_SPINCOUNT bounds the spinning. Per value and image
size: ResNet-18, fp32, a bare loop on a batch that stays in memory (training: 16 images, scoring:
32), alone, two trainings at once, and a training beside scoring, each process counted only while
the other computes too. `of lone` adds up what share of its lone rate each of the two reaches: 1
means that no work is lost. Lone rates are those of the default spin count. Weights are compared:
the spin count must not change a bit.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.table import heading, table

DEFAULT = "default"  # what GNU OpenMP does when the variable is not set
VARIABLE = "GOMP_SPINCOUNT"
WARM_UP_STEPS = 3
BITS_STEPS = 5
SCORED_IMAGES = 32
START_SECONDS = 7  # that a process needs for loading torch, with the other one loading too


@dataclass(frozen=True, slots=True)
class Rates:
    """Images per second alone and beside each other, and the digest of the trained weights."""

    train: float
    score: float
    two_trainings: tuple[float, float]
    training_and_scoring: tuple[float, float]
    digest: str


def scoring_loop(size: int) -> tuple[Callable[[], None], int, str]:
    """A step that scores a batch, its number of images, and no digest."""
    import torch

    from trialrun.images.decoding.preprocessing import Preprocessing
    from trialrun.models.classifier import ImageClassifier
    from trialrun.models.zoo import build_network

    torch.manual_seed(0)
    network = build_network("resnet18", 2, image_size=size)
    classifier = ImageClassifier(network, ("a", "b"), Preprocessing(size)).eval()
    images = torch.randn(SCORED_IMAGES, 3, size, size)

    def step() -> None:
        with torch.inference_mode():
            classifier(images)

    return step, SCORED_IMAGES, "-"


def training_loop(size: int) -> tuple[Callable[[], None], int, str]:
    """A training step, its number of images, and a digest of the weights after a few steps."""
    import torch

    from benchmarks.engine import Case, resident_step
    from trialrun.engine.compute.allocator import keep_freed_memory
    from trialrun.engine.compute.precision import ComputeConfig
    from trialrun.models.zoo import build_network

    keep_freed_memory()
    layout = "NCHW" if size < 128 else "NHWC"
    case = Case("resnet18", size, 16, 1)
    torch.manual_seed(0)
    network = build_network(case.model, 2, image_size=size)
    step = resident_step(case, ComputeConfig(torch.device("cpu"), "fp32", layout), network)
    for _ in range(BITS_STEPS):
        step()
    parts = [value.numpy().tobytes() for value in network.state_dict().values()]
    return step, case.batch_size, hashlib.sha256(b"".join(parts)).hexdigest()


def run_child(kind: str, seconds: float, size: int, starts_at: float) -> None:
    """Print images per second of a loop over `seconds`, from `starts_at` on, and its digest."""
    step, num_images, digest = {"train": training_loop, "score": scoring_loop}[kind](size)
    time.sleep(max(starts_at - time.time(), 0))
    for _ in range(WARM_UP_STEPS):
        step()
    started, num_steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        num_steps += 1
    rate = num_images * num_steps / (time.perf_counter() - started)
    sys.stdout.write(f"{rate} {digest}\n")


def start(
    kind: str, spin_count: str, size: int, seconds: float, starts_at: float
) -> "subprocess.Popen[str]":
    """A process that trains or scores from `starts_at` (seconds since 1970) on."""
    environment = {name: text for name, text in os.environ.items() if name != VARIABLE}
    if spin_count != DEFAULT:
        environment[VARIABLE] = spin_count
    words = [sys.executable, "-m", "benchmarks.side_by_side", "--child"]
    words += [kind, str(seconds), str(size), str(starts_at)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


def rates(kinds: Sequence[str], spin_count: str, size: int, seconds: float) -> list[list[str]]:
    """Rate and digest of each of these processes, which compute at the same time."""
    starts_at = time.time() + START_SECONDS * len(kinds)
    children = [start(kind, spin_count, size, seconds, starts_at) for kind in kinds]
    return [child.communicate()[0].split() for child in children]


def measure(spin_count: str, size: int, seconds: float, rounds: int) -> Rates:
    """The median rates over the rounds."""
    found = [
        [
            *rates(["train"], spin_count, size, seconds),
            *rates(["score"], spin_count, size, seconds),
            *rates(["train", "train"], spin_count, size, seconds),
            *rates(["train", "score"], spin_count, size, seconds),
        ]
        for _ in range(rounds)
    ]
    digests = {answer[1] for round_ in found for answer in round_} - {"-"}
    assert len(digests) == 1, "two processes with the same settings trained different weights"
    train, score, *pairs = (
        statistics.median(float(round_[place][0]) for round_ in found) for place in range(6)
    )
    return Rates(train, score, (pairs[0], pairs[1]), (pairs[2], pairs[3]), digests.pop())


def row(size: int, spin_count: str, found: Rates, base: Rates) -> list[object]:
    """One row of the table; shares are of the lone rates in `base`."""
    first, second = found.two_trainings
    trained, scored = found.training_and_scoring
    return [
        size,
        spin_count,
        found.train,
        found.train / base.train,
        f"{first:.3g} + {second:.3g}",
        (first + second) / base.train,
        found.score / base.score,
        f"{trained:.3g} + {scored:.3g}",
        trained / base.train + scored / base.score,
        "same bits" if found.digest == base.digest else "OTHER BITS",
    ]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spin-counts", default=f"{DEFAULT},1000")
    parser.add_argument("--sizes", default="32,64,128")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        kind, seconds, size, starts_at = chosen.child
        run_child(kind, float(seconds), int(size), float(starts_at))
        return 0
    rows: list[list[object]] = []
    for size in map(int, chosen.sizes.split(",")):
        found = {
            count: measure(count, size, chosen.seconds, chosen.rounds)
            for count in chosen.spin_counts.split(",")
        }
        base = found.get(DEFAULT) or next(iter(found.values()))
        rows += [row(size, count, each, base) for count, each in found.items()]
    columns = ["pixels", VARIABLE, "training alone", "of default", "two trainings", "of lone"]
    columns += ["scoring alone, of default", "training + scoring", "of lone", ""]
    sys.stdout.write(heading("A training beside another process, images per second") + "\n")
    sys.stdout.write(table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
