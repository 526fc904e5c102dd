"""Several trainings with few threads each, relative to one training with a thread per core.

    python -m benchmarks.cores [--models resnet18,mobilenet_v3_small] [--sizes 32,64,96,128,224]
        [--threads 1] [--rounds 3] [--seconds 4] [--batch-size 16]

A search can train its trials one after the other or side by side. Each process runs a bare loop on
a batch that stays in memory, in the precision and layout that a run would choose. The ratio is the
median over the rounds, in which both ways follow each other; above 1, side by side is faster.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from benchmarks.table import format_table, make_heading
from trialrun.images.scanning.thread_pool import count_threads

WARM_UP_STEPS = 3
START_SECONDS = 7  # to load torch in one process of several


def run_child(model: str, size: int, batch_size: int, seconds: float, starts_at: float) -> None:
    """Train for `seconds` from `starts_at` on; print the images per second."""
    import torch

    from benchmarks.engine import Case, make_resident_step
    from trialrun.engine.compute.allocator import keep_freed_memory
    from trialrun.engine.compute.openmp import limit_spinning
    from trialrun.engine.compute.precision import resolve_compute
    from trialrun.models.zoo.networks import build_network

    limit_spinning()
    keep_freed_memory()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    network = build_network(model, 10, image_size=size)
    compute = resolve_compute("cpu", "auto").for_network(network)
    step = make_resident_step(Case(model, size, batch_size, 1), compute, network)
    for _ in range(WARM_UP_STEPS):
        step()
    time.sleep(max(starts_at - time.time(), 0))
    started, num_steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        num_steps += 1
    sys.stdout.write(f"{batch_size * num_steps / (time.perf_counter() - started)}\n")


def measure_sum(num_processes: int, num_threads: int, arguments: list[str]) -> float:
    """Return the images per second of all processes together."""
    starts_at = time.time() + START_SECONDS * num_processes
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads), "GOMP_SPINCOUNT": "1500"}
    command = [sys.executable, "-m", "benchmarks.cores", "--child", *arguments, str(starts_at)]
    children = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(num_processes)
    ]
    return sum(float(child.communicate()[0]) for child in children)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="resnet18,mobilenet_v3_small")
    parser.add_argument("--sizes", default="32,64,96,128,224")
    parser.add_argument("--threads", type=int, default=1, help="of each of several trainings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        model, size, batch_size, seconds, starts_at = options.child
        run_child(model, int(size), int(batch_size), float(seconds), float(starts_at))
        return 0
    cores = count_threads()
    rows: list[list[object]] = []
    for model in options.models.split(","):
        for size in options.sizes.split(","):
            arguments = [model, size, str(options.batch_size), str(options.seconds)]
            one, several, ratio = compare(cores, options.threads, arguments, options.rounds)
            rows.append([model, size, one, several, ratio])
            sys.stderr.write(f"{model} at {size} pixels: {ratio:.2f}\n")
    title = f"{cores // options.threads} trainings of {options.threads} threads, images per second"
    columns = ["network", "pixels", f"one with {cores}", "several, sum", "several / one"]
    sys.stdout.write(make_heading(title) + "\n" + format_table(columns, rows))
    return 0


def compare(
    cores: int, threads: int, arguments: list[str], num_rounds: int
) -> tuple[float, float, float]:
    """Return the median speeds of one training and of several, and the median of their ratio."""
    rounds = [
        (measure_sum(1, cores, arguments), measure_sum(cores // threads, threads, arguments))
        for _ in range(num_rounds)
    ]
    one, several = (statistics.median(column) for column in zip(*rounds, strict=True))
    return one, several, statistics.median(b / a for a, b in rounds)


if __name__ == "__main__":
    sys.exit(main())
