"""Training speed on the CPU by network, image size, memory layout and precision.

    python -m benchmarks.layout [--models resnet18,densenet121] [--sizes 32,64] [--batches 16]
        [--seconds 2] [--rounds 2]

Steps on a batch that stays in memory, with trialrun's optimizer and kernels. The four choices
alternate; the fastest round of each counts. `auto` is the choice of the rules in
`engine.compute.precision`; the last column is its rate relative to the fastest choice.
"""

import argparse
import sys
import time
from itertools import product

import torch

from benchmarks.engine import NUM_CLASSES, Case, make_resident_step
from benchmarks.table import format_table, make_heading
from trialrun.engine.compute.allocator import keep_freed_memory
from trialrun.engine.compute.precision import ComputeConfig, resolve_compute
from trialrun.models.zoo.networks import build_network

MODELS = "resnet18,resnet50,densenet121,mobilenet_v2,mobilenet_v3_small,efficientnet_b0,"
MODELS += "shufflenet_v2_x1_0"
CHOICES = tuple(product(("fp32", "bf16"), ("NCHW", "NHWC")))


def measure_rate(case: Case, choice: tuple[str, str], seconds: float) -> float:
    """Return images per second over at least `seconds` and two steps."""
    precision, layout = choice
    compute = ComputeConfig(torch.device("cpu"), precision, layout)
    step = make_resident_step(case, compute, is_ours=True)
    step()
    started, num_steps = time.perf_counter(), 0
    while num_steps < 2 or time.perf_counter() - started < seconds:
        step()
        num_steps += 1
    return case.batch_size * num_steps / (time.perf_counter() - started)


def measure_choices(case: Case, seconds: float, rounds: int) -> dict[tuple[str, str], float]:
    """Return the rate of each choice's fastest round."""
    rates = dict.fromkeys(CHOICES, 0.0)
    for _ in range(rounds):
        for choice in CHOICES:
            rates[choice] = max(rates[choice], measure_rate(case, choice, seconds))
    return rates


def make_row(case: Case, seconds: float, rounds: int) -> list[object]:
    """Return one case's rates, and the rate of the rules' choice relative to the fastest."""
    rates = measure_choices(case, seconds, rounds)
    network = build_network(case.model, NUM_CLASSES, image_size=case.size)
    auto = resolve_compute("cpu", "auto").for_network(network)
    share = rates[auto.precision, auto.layout] / max(rates.values())
    bf16, fp32 = (max(rates[p, "NCHW"], rates[p, "NHWC"]) for p in ("bf16", "fp32"))
    auto_name = f"{auto.precision} {auto.layout}"
    return [case.model, case.size, case.batch_size, *rates.values(), bf16 / fp32, auto_name, share]


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--sizes", default="32,64,224")
    parser.add_argument("--batches", default="16")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    keep_freed_memory()
    rows = []
    lists = (arguments.models, arguments.sizes, arguments.batches)
    for model, size, batch in product(*(values.split(",") for values in lists)):
        case = Case(model, int(size), int(batch), 1)
        rows.append(make_row(case, arguments.seconds, arguments.rounds))
        print(*rows[-1], file=sys.stderr, flush=True)
    names = [f"{precision} {layout}" for precision, layout in CHOICES]
    columns = ("model", "pixels", "batch", *names, "bf16 / fp32", "auto", "auto / fastest")
    sys.stdout.write(make_heading("Layout and precision on the CPU, images per second") + "\n")
    sys.stdout.write(format_table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
