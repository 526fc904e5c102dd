"""Which memory layout a network learns faster in, by image size: `python -m benchmarks.layout`.

    python -m benchmarks.layout [--models resnet18,densenet121] [--sizes 32,64] [--batches 16]

Steps of a bare loop on a batch that stays in memory, fp32 on the CPU; the rule in
`engine.precision` is drawn from this table.
"""

import argparse
import sys

import torch

from benchmarks.engine import Case, images_per_second, resident_step
from benchmarks.table import heading, table
from trialrun.engine.allocator import keep_freed_memory
from trialrun.engine.precision import Arithmetic

MODELS = "resnet18,resnet50,densenet121,mobilenet_v3_small,efficientnet_b0,vgg11_bn"
ROUNDS = 2  # the faster of which counts


def rate(case: Case, layout: str) -> float:
    """Images a second of the faster round."""
    math = Arithmetic(torch.device("cpu"), "fp32", layout)
    rounds = (
        images_per_second(resident_step(case, math), case, math.device) for _ in range(ROUNDS)
    )
    return max(rounds)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--sizes", default="32,64,96,128")
    parser.add_argument("--batches", default="16")
    chosen = parser.parse_args()
    keep_freed_memory()
    rows: list[list[object]] = []
    for model in chosen.models.split(","):
        for size in map(int, chosen.sizes.split(",")):
            for batch_size in map(int, chosen.batches.split(",")):
                case = Case(model, size, batch_size, 20 if size < 96 else 6)
                plain, last = rate(case, "NCHW"), rate(case, "NHWC")
                rows.append([model, size, batch_size, plain, last, last / plain])
    columns = ("model", "pixels", "batch", "NCHW images/s", "NHWC images/s", "NHWC / NCHW")
    sys.stdout.write(heading("Memory layouts on the CPU in fp32") + "\n" + table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
