"""Time of a training step on small images with kernels that are cropped to the pixels they meet.

    python -m benchmarks.kernels [--models resnet18] [--size 32] [--batch-sizes 32 64] [--rounds 5]

A bare step (forward, backward, fused AdamW) on resident images, whole kernels and cropped ones in
turn; the median of the rounds' ratios.
"""

import argparse
import sys
import time
from statistics import median

import torch
import torchvision

from benchmarks.table import format_table, make_heading
from trialrun.engine.compute.allocator import keep_freed_memory
from trialrun.engine.compute.kernels import crop_kernels, list_croppable
from trialrun.engine.eager_optimizers import EagerAdamW

_NUM_CLASSES = 10
_NUM_STEPS = 10  # of a round
_PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def measure_rounds(
    model: str, size: int, batch_size: int, precision: str, num_rounds: int
) -> list[tuple[float, float]]:
    """Return seconds per step of each round: with whole kernels, and with cropped ones."""
    torch.manual_seed(1)
    network = torchvision.models.get_model(model, num_classes=_NUM_CLASSES)
    network.to(memory_format=torch.channels_last)
    optimizer = EagerAdamW(network.parameters(), lr=1e-3, fused=True)
    images = torch.randn(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, _NUM_CLASSES, (batch_size,))
    compute_loss = torch.nn.CrossEntropyLoss()
    dtype = _PRECISIONS[precision]

    def measure_seconds(layers: list[torch.nn.Conv2d]) -> float:
        started = time.perf_counter()
        for _ in range(_NUM_STEPS):
            is_bf16 = dtype is torch.bfloat16
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16), crop_kernels(layers):
                logits = network(images)
            optimizer.zero_grad(set_to_none=True)
            compute_loss(logits.float(), labels).backward()
            optimizer.step()
        return (time.perf_counter() - started) / _NUM_STEPS

    layers = list_croppable(network)
    measure_seconds([]), measure_seconds(layers)  # warm up
    return [(measure_seconds([]), measure_seconds(layers)) for _ in range(num_rounds)]


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet18"])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    rows: list[list[object]] = []
    for model in arguments.models:
        for precision in _PRECISIONS:
            for batch_size in arguments.batch_sizes:
                rounds = measure_rounds(
                    model, arguments.size, batch_size, precision, arguments.rounds
                )
                whole, cropped = (1000 * median(times) for times in zip(*rounds, strict=True))
                ratio = median(after / before for before, after in rounds)
                rows.append([model, precision, batch_size, whole, cropped, ratio])
                print(*rows[-1], file=sys.stderr, flush=True)
    columns = ("network", "precision", "images", "whole, ms", "cropped, ms", "cropped / whole")
    title = f"Training step at {arguments.size} pixels"
    print(f"{make_heading(title)}\n{format_table(columns, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
