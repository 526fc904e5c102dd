"""Which memory layout and precision a network learns faster in, by image size, on the CPU.

    python -m benchmarks.layout [--models resnet18,densenet121] [--sizes 32,64] [--batches 16]
        [--precisions fp32]

Steps of a bare loop on a batch that stays in memory; the rules in `engine.precision` are drawn from
this table.
"""

import argparse
import sys
from itertools import product

import torch

from benchmarks.engine import Case, images_per_second, resident_step
from benchmarks.table import heading, table
from trialrun.engine.allocator import keep_freed_memory
from trialrun.engine.precision import Arithmetic

MODELS = "resnet18,resnet50,densenet121,mobilenet_v3_small,efficientnet_b0,vgg11_bn"
ROUNDS = 2  # the faster of which counts


def rate(case: Case, precision: str, layout: str) -> float:
    """Images a second of the faster round."""
    math = Arithmetic(torch.device("cpu"), precision, layout)
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
    parser.add_argument("--precisions", default="fp32")
    chosen = parser.parse_args()
    keep_freed_memory()
    rows: list[list[object]] = []
    asked = (chosen.models, chosen.sizes, chosen.batches, chosen.precisions)
    for model, size, batch, precision in product(*(values.split(",") for values in asked)):
        case = Case(model, int(size), int(batch), 20 if int(size) < 96 else 6)
        plain, last = rate(case, precision, "NCHW"), rate(case, precision, "NHWC")
        rows.append([model, size, batch, precision, plain, last, last / plain])
    columns = ("model", "pixels", "batch", "precision", "NCHW images/s", "NHWC images/s", "ratio")
    sys.stdout.write(heading("NHWC over NCHW on the CPU") + "\n" + table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
