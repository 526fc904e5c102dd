"""Slowdown of two processes on the same cores, by OpenMP's spin count.

    python -m benchmarks.side_by_side [--spin-counts default,1500] [--sizes 32,64,128] [--rounds 3]

Threads of GNU OpenMP spin while they wait for work, by default so long that two trainings on the
same cores slow each other down. GOMP_SPINCOUNT limits the spinning. Per value and image size:
ResNet-18, fp32, a bare loop on a batch that stays in memory (training: 16 images, scoring: 32):
each alone, two trainings at once, and training beside scoring. A process is measured only while
the other one computes too. `sum of shares` adds the two processes' rates, each relative to its rate
alone with the default spin count: 1 means that no work is lost. The spin count must not change a
bit of the weights, which are compared.
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

from benchmarks.table import format_table, make_heading

DEFAULT = "default"  # the variable is not set
VARIABLE = "GOMP_SPINCOUNT"
WARM_UP_STEPS = 3
BITS_STEPS = 5
SCORED_IMAGES = 32
START_SECONDS = 7  # to load torch in two processes at once


@dataclass(frozen=True, slots=True)
class Rates:
    """Images per second alone and of pairs of processes, and the digest of the trained weights."""

    train: float
    score: float
    two_trainings: tuple[float, float]
    training_and_scoring: tuple[float, float]
    digest: str


def make_scoring_loop(size: int) -> tuple[Callable[[], None], int, str]:
    """Return a step that scores a batch, the batch's size, and `-` for the digest."""
    import torch

    from trialrun.images.decoding.preprocessing import Preprocessing
    from trialrun.models.classifier import ImageClassifier
    from trialrun.models.zoo.networks import build_network

    torch.manual_seed(0)
    network = build_network("resnet18", 2, image_size=size)
    classifier = ImageClassifier(network, ("a", "b"), Preprocessing(size)).eval()
    images = torch.randn(SCORED_IMAGES, 3, size, size)

    def step() -> None:
        with torch.inference_mode():
            classifier(images)

    return step, SCORED_IMAGES, "-"


def make_training_loop(size: int) -> tuple[Callable[[], None], int, str]:
    """Return a training step, the batch's size, and a digest of the weights after a few steps."""
    import torch

    from benchmarks.engine import Case, make_resident_step
    from trialrun.engine.compute.allocator import keep_freed_memory
    from trialrun.engine.compute.precision import ComputeConfig
    from trialrun.models.zoo.networks import build_network

    keep_freed_memory()
    case = Case("resnet18", size, 16, 1)
    torch.manual_seed(0)
    network = build_network(case.model, 2, image_size=size)
    step = make_resident_step(case, ComputeConfig(torch.device("cpu"), "fp32"), network)
    for _ in range(BITS_STEPS):
        step()
    parts = [value.numpy().tobytes() for value in network.state_dict().values()]
    return step, case.batch_size, hashlib.sha256(b"".join(parts)).hexdigest()


def run_child(kind: str, seconds: float, size: int, starts_at: float) -> None:
    """Run a loop for `seconds` from `starts_at` on; print its images per second and its digest."""
    step, num_images, digest = {"train": make_training_loop, "score": make_scoring_loop}[kind](size)
    time.sleep(max(starts_at - time.time(), 0))
    for _ in range(WARM_UP_STEPS):
        step()
    started, num_steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        num_steps += 1
    rate = num_images * num_steps / (time.perf_counter() - started)
    sys.stdout.write(f"{rate} {digest}\n")


def start_process(
    kind: str, spin_count: str, size: int, seconds: float, starts_at: float
) -> "subprocess.Popen[str]":
    """Start a process that trains or scores from `starts_at` (seconds since 1970) on."""
    environment = {name: text for name, text in os.environ.items() if name != VARIABLE}
    if spin_count != DEFAULT:
        environment[VARIABLE] = spin_count
    command = [sys.executable, "-m", "benchmarks.side_by_side", "--child"]
    command += [kind, str(seconds), str(size), str(starts_at)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def run_together(
    kinds: Sequence[str], spin_count: str, size: int, seconds: float
) -> list[list[str]]:
    """Run processes at the same time; return the rate and digest of each."""
    starts_at = time.time() + START_SECONDS * len(kinds)
    children = [start_process(kind, spin_count, size, seconds, starts_at) for kind in kinds]
    return [child.communicate()[0].split() for child in children]


def measure(spin_count: str, size: int, seconds: float, rounds: int) -> Rates:
    """Return the median rates over the rounds."""
    results = [
        [
            *run_together(["train"], spin_count, size, seconds),
            *run_together(["score"], spin_count, size, seconds),
            *run_together(["train", "train"], spin_count, size, seconds),
            *run_together(["train", "score"], spin_count, size, seconds),
        ]
        for _ in range(rounds)
    ]
    digests = {output[1] for round_ in results for output in round_} - {"-"}
    assert len(digests) == 1, "two processes with the same settings trained different weights"
    train, score, *pairs = (
        statistics.median(float(round_[index][0]) for round_ in results) for index in range(6)
    )
    return Rates(train, score, (pairs[0], pairs[1]), (pairs[2], pairs[3]), digests.pop())


def make_row(size: int, spin_count: str, rates: Rates, base: Rates) -> list[object]:
    """Return one row of the table; shares are relative to the rates alone in `base`."""
    first, second = rates.two_trainings
    trained, scored = rates.training_and_scoring
    return [
        size,
        spin_count,
        rates.train,
        rates.train / base.train,
        f"{first:.3g} + {second:.3g}",
        (first + second) / base.train,
        rates.score / base.score,
        f"{trained:.3g} + {scored:.3g}",
        trained / base.train + scored / base.score,
        "same bits" if rates.digest == base.digest else "DIFFERENT BITS",
    ]


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spin-counts", default=f"{DEFAULT},1000")
    parser.add_argument("--sizes", default="32,64,128")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, seconds, size, starts_at = arguments.child
        run_child(kind, float(seconds), int(size), float(starts_at))
        return 0
    rows: list[list[object]] = []
    for size in map(int, arguments.sizes.split(",")):
        measured = {
            count: measure(count, size, arguments.seconds, arguments.rounds)
            for count in arguments.spin_counts.split(",")
        }
        base = measured.get(DEFAULT) or next(iter(measured.values()))
        rows += [make_row(size, count, rates, base) for count, rates in measured.items()]
    columns = ["pixels", VARIABLE, "training alone", "of default", "two trainings", "sum of shares"]
    columns += ["scoring alone, of default", "training + scoring", "sum of shares", ""]
    sys.stdout.write(make_heading("Training beside another process, images per second") + "\n")
    sys.stdout.write(format_table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
