"""Which memory layout and precision a network learns faster in, by image size, on the CPU.

    python -m benchmarks.layout [--models resnet18,densenet121] [--sizes 32,64] [--batches 16]
        [--seconds 2] [--rounds 2]

Steps of a bare loop on a batch that stays in memory. The four choices take turns, the fastest round
of each counts. `auto` is what the rules in `engine.precision` choose; the last column is its rate
over the fastest choice's. The rules are drawn from this table.
"""

import argparse
import sys
import time
from itertools import product

import torch

from benchmarks.engine import NUM_CLASSES, Case, resident_step
from benchmarks.table import heading, table
from trialrun.engine.compute.allocator import keep_freed_memory
from trialrun.engine.compute.precision import ComputeConfig, resolve_compute
from trialrun.models.zoo import build_network

MODELS = "resnet18,resnet50,densenet121,mobilenet_v2,mobilenet_v3_small,efficientnet_b0,"
MODELS += "shufflenet_v2_x1_0"
CHOICES = tuple(product(("fp32", "bf16"), ("NCHW", "NHWC")))


def rate(case: Case, choice: tuple[str, str], seconds: float) -> float:
    """Images per second over at least so many seconds and two steps."""
    precision, layout = choice
    step = resident_step(case, ComputeConfig(torch.device("cpu"), precision, layout))
    step()
    started, num_steps = time.perf_counter(), 0
    while num_steps < 2 or time.perf_counter() - started < seconds:
        step()
        num_steps += 1
    return case.batch_size * num_steps / (time.perf_counter() - started)


def measure(case: Case, seconds: float, rounds: int) -> dict[tuple[str, str], float]:
    """The fastest round of every choice."""
    found = dict.fromkeys(CHOICES, 0.0)
    for _ in range(rounds):
        for choice in CHOICES:
            found[choice] = max(found[choice], rate(case, choice, seconds))
    return found


def row(case: Case, seconds: float, rounds: int) -> list[object]:
    """One case's rates and how close the rules come to the fastest."""
    found = measure(case, seconds, rounds)
    network = build_network(case.model, NUM_CLASSES, image_size=case.size)
    chosen = resolve_compute("cpu", "auto").with_best_memory_format(network, case.size)
    share = found[chosen.precision, chosen.layout] / max(found.values())
    bf16, fp32 = (max(found[p, "NCHW"], found[p, "NHWC"]) for p in ("bf16", "fp32"))
    auto = f"{chosen.precision} {chosen.layout}"
    return [case.model, case.size, case.batch_size, *found.values(), bf16 / fp32, auto, share]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--sizes", default="32,64,224")
    parser.add_argument("--batches", default="16")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    keep_freed_memory()
    rows = []
    asked = (chosen.models, chosen.sizes, chosen.batches)
    for model, size, batch in product(*(values.split(",") for values in asked)):
        case = Case(model, int(size), int(batch), 1)
        rows.append(row(case, chosen.seconds, chosen.rounds))
        print(*rows[-1], file=sys.stderr, flush=True)
    names = [f"{precision} {layout}" for precision, layout in CHOICES]
    columns = ("model", "pixels", "batch", *names, "bf16 / fp32", "auto", "auto / fastest")
    sys.stdout.write(heading("Layout and precision on the CPU, images per second") + "\n")
    sys.stdout.write(table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
