"""How much a training slows another one down on the same cores, by OpenMP's spin count.

    python -m benchmarks.side_by_side [--spin-counts default,1000] [--sizes 32,64,128] [--rounds 3]

Threads of GNU OpenMP spin while they wait for work, by default so long that two trainings on the
same cores take the cores from each other. GOMP_SPINCOUNT bounds the spinning. Per value and image
size: ResNet-18, batch 16, fp32, a bare loop on a batch that stays in memory, alone and two at once,
each process counted only while the other computes too. The weights of all values are compared: the
spin count must not change a bit.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.table import heading, table

DEFAULT = "default"  # what GNU OpenMP does when the variable is not set
VARIABLE = "GOMP_SPINCOUNT"
WARM_UP_STEPS = 3
BITS_STEPS = 5


@dataclass(frozen=True, slots=True)
class Rates:
    """Images per second of one process alone and of each of two, and the digest of the weights."""

    alone: float
    pair: tuple[float, float]
    digest: str


def train_for(seconds: float, size: int, starts_at: float) -> None:
    """Print images per second of a bare loop over `seconds`, and a digest of early weights."""
    import torch

    from benchmarks.engine import Case, resident_step
    from trialrun.engine.allocator import keep_freed_memory
    from trialrun.engine.precision import Arithmetic
    from trialrun.models.zoo import build

    keep_freed_memory()
    layout = "NCHW" if size < 128 else "NHWC"
    case = Case("resnet18", size, 16, 1)
    torch.manual_seed(0)
    network = build(case.model, 2, image_size=size)
    step = resident_step(case, Arithmetic(torch.device("cpu"), "fp32", layout), network)
    for _ in range(BITS_STEPS):
        step()
    parts = [value.numpy().tobytes() for value in network.state_dict().values()]
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    time.sleep(max(starts_at - time.time(), 0))
    for _ in range(WARM_UP_STEPS):
        step()
    started, num_steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        num_steps += 1
    rate = case.batch_size * num_steps / (time.perf_counter() - started)
    sys.stdout.write(f"{rate} {digest}\n")


def started(
    spin_count: str, size: int, seconds: float, starts_at: float
) -> "subprocess.Popen[str]":
    """A process that trains from `starts_at` (seconds since 1970) on."""
    environment = {name: text for name, text in os.environ.items() if name != VARIABLE}
    if spin_count != DEFAULT:
        environment[VARIABLE] = spin_count
    words = [sys.executable, "-m", "benchmarks.side_by_side", "--child"]
    words += [str(seconds), str(size), str(starts_at)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


def rates(
    num_processes: int, spin_count: str, size: int, seconds: float
) -> list[tuple[float, str]]:
    """Rate and digest of each of so many processes that compute at the same time."""
    starts_at = time.time() + 8 * num_processes
    children = [started(spin_count, size, seconds, starts_at) for _ in range(num_processes)]
    answers = [child.communicate()[0].split() for child in children]
    return [(float(rate), digest) for rate, digest in answers]


def measure(spin_count: str, size: int, seconds: float, rounds: int) -> Rates:
    """The median rates over the rounds."""
    alone, pairs, digests = [], [], set()
    for _ in range(rounds):
        lone = rates(1, spin_count, size, seconds)
        both = rates(2, spin_count, size, seconds)
        alone.append(lone[0][0])
        pairs.append(sorted(rate for rate, _ in both))
        digests |= {digest for _, digest in (*lone, *both)}
    assert len(digests) == 1, "two processes with the same settings trained different weights"
    first, second = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    return Rates(statistics.median(alone), (first, second), digests.pop())


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spin-counts", default=f"{DEFAULT},1000")
    parser.add_argument("--sizes", default="32,64,128")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        train_for(chosen.child[0], int(chosen.child[1]), chosen.child[2])
        return 0
    rows: list[list[object]] = []
    for size in map(int, chosen.sizes.split(",")):
        found = {
            count: measure(count, size, chosen.seconds, chosen.rounds)
            for count in chosen.spin_counts.split(",")
        }
        base = found.get(DEFAULT) or next(iter(found.values()))
        for count, each in found.items():
            same = "same bits" if each.digest == base.digest else "OTHER BITS"
            both = " + ".join(f"{rate:.3g}" for rate in each.pair)
            lone = each.alone / base.alone
            rows.append([size, count, each.alone, lone, both, sum(each.pair) / base.alone, same])
    columns = ("pixels", VARIABLE, "alone", "of default", "two at once", "both / default alone", "")
    sys.stdout.write(heading("Two trainings at once, images per second") + "\n")
    sys.stdout.write(table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
