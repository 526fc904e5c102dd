"""Time of a training step on small images with convolutions that are adapted to small maps.

    python -m benchmarks.kernels [--models resnet18] [--size 32] [--batch-sizes 32 64] [--rounds 5]

A bare step (forward, backward, fused AdamW) on images that stay in memory, torch's convolutions and
adapted ones in turn; the median of the rounds' ratios. NCHW is the layout that dense networks had
on small images before.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import torchvision

from benchmarks.table import format_table, make_heading
from trialrun.engine.compute.allocator import keep_freed_memory
from trialrun.engine.compute.kernels import adapt_to_small_maps, list_adaptable
from trialrun.engine.eager_optimizers import EagerAdamW

_NUM_CLASSES = 10
_NUM_STEPS = 10  # of a round
_PRECISIONS = ("bf16", "fp32")


@dataclass(frozen=True, slots=True)
class Choice:
    """A layout, and whether convolutions are adapted."""

    name: str
    layout: torch.memory_format
    is_adapted: bool


CHOICES = (
    Choice("NCHW, torch", torch.contiguous_format, is_adapted=False),
    Choice("NHWC, torch", torch.channels_last, is_adapted=False),
    Choice("NHWC, adapted", torch.channels_last, is_adapted=True),
)


def make_step(
    model: str, size: int, batch_size: int, precision: str, choice: Choice
) -> Callable[[], None]:
    """Return a training step on images that stay in memory."""
    torch.manual_seed(1)
    network = torchvision.models.get_model(model, num_classes=_NUM_CLASSES)
    network.to(memory_format=choice.layout)
    optimizer = EagerAdamW(network.parameters(), lr=1e-3, fused=True)
    images = torch.randn(batch_size, 3, size, size).contiguous(memory_format=choice.layout)
    labels = torch.randint(0, _NUM_CLASSES, (batch_size,))
    compute_loss = torch.nn.CrossEntropyLoss()
    layers = list_adaptable(network) if choice.is_adapted else []

    def step() -> None:
        has_bf16 = precision == "bf16"
        with (
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bf16),
            adapt_to_small_maps(layers),
        ):
            logits = network(images)
        optimizer.zero_grad()
        compute_loss(logits.float(), labels).backward()
        optimizer.step()

    return step


def measure_milliseconds(step: Callable[[], None]) -> float:
    """Return the milliseconds per step."""
    started = time.perf_counter()
    for _ in range(_NUM_STEPS):
        step()
    return 1000 * (time.perf_counter() - started) / _NUM_STEPS


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
                case = (model, arguments.size, batch_size, precision)
                steps = [make_step(*case, choice) for choice in CHOICES]
                for step in steps:
                    measure_milliseconds(step)  # warm up
                rounds = [list(map(measure_milliseconds, steps)) for _ in range(arguments.rounds)]
                medians = [median(times) for times in zip(*rounds, strict=True)]
                ratios = [median(times[2] / times[other] for times in rounds) for other in (1, 0)]
                rows.append([model, precision, batch_size, *medians, *ratios])
                print(*rows[-1], file=sys.stderr, flush=True)
    names = [f"{choice.name}, ms" for choice in CHOICES]
    columns = ("network", "precision", "images", *names, "adapted / torch", "adapted / NCHW")
    title = f"Training step at {arguments.size} pixels"
    print(f"{make_heading(title)}\n{format_table(columns, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
