"""Time and accuracy with progressive_resize=on, relative to off on the same machine.

    python -m benchmarks.progressive [--part photos fashion] [--rounds 3] [--seeds 5] [--epochs 10]
        [--size 32] [--first on] [--set NAME=VALUE ...]

photos: the process of `benchmarks.peers` with six epochs, off and on in turn; the ratio of each
round, so that a drift of the machine's speed affects both.

fashion: ResNet-18 from random weights at 32 pixels (--size), trained on 10,000 images of
Fashion-MNIST and validated on 10,000 others; each seed trains with both values. --set replaces
settings, such as model=shufflenet_v2_x0_5, which is fast enough for 128 pixels. The accuracy is
that of the epoch with the lowest validation loss, as in a run, without early stopping. The interval
is Student's, of the mean difference over the seeds. At 32 pixels `on` changes nothing: --first 16
starts at half the size.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from scipy.stats import t as student

from benchmarks.fetched import write_fashion
from benchmarks.peers.__main__ import NUM_TRAIN, NUM_VALID, OURS, Peer, measure_seconds
from benchmarks.photos import write_photos
from benchmarks.table import format_table, make_heading
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.early_stopping import EarlyStopping
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.inputs.data import prepare_data
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.session import resolve_rank_compute, start_session

OFF, ON = "off", "on"
_NUM_EPOCHS = 6
_CONFIDENCE = 0.95
_NUM_IMAGES = 10_000


def set_value(peer: Peer, value: str) -> Peer:
    """Return the process with a value of the setting."""
    return replace(peer, command=(*peer.command, "--progressive-resize", value))


def measure_photos(scratch: Path, rounds: int) -> str:
    """Return the table of whole processes."""
    photos = scratch / "photos"
    write_photos(photos / "train", NUM_TRAIN, seed=1)
    write_photos(photos / "valid", NUM_VALID, seed=2)
    rows: list[list[object]] = []
    ratios = []
    for number in range(1, rounds + 1):
        off, on = (
            measure_seconds(set_value(OURS, value), Path(sys.executable), photos, _NUM_EPOCHS)
            for value in (OFF, ON)
        )
        ratios.append(on / off)
        rows.append([number, off, on, on / off])
        print(f"round {number}: {off:.1f} s, {on:.1f} s", file=sys.stderr, flush=True)
    title = f"{NUM_TRAIN} photos at 224, {_NUM_EPOCHS} epochs, whole processes"
    table = format_table(("round", "off, s", "on, s", "on / off"), rows)
    return f"{make_heading(title)}\n{table}\nMedian of on / off: {median(ratios):.2f}\n"


def train_once(values: dict[str, Any]) -> tuple[float, float]:
    """Train; return the accuracy of the best epoch and the seconds of training and validation."""
    plan = plan_training(values)
    prepared = prepare_data(plan, NoOpCallback())
    started = time.perf_counter()
    session = start_session(plan, prepared, resolve_rank_compute(plan), SINGLE_PROCESS)
    session.prepare()
    results = [status.result for status in session.epochs(EarlyStopping(session.plan.config))]
    best = min(results, key=lambda result: result.validation.loss)
    return best.validation.accuracy, time.perf_counter() - started


def measure_fashion(scratch: Path, arguments: argparse.Namespace) -> str:
    """Return the table of accuracies, and the interval of their mean difference."""
    train, valid = scratch / "fashion", scratch / "fashion-valid"
    write_fashion(train, num_images=_NUM_IMAGES, size=arguments.size)
    write_fashion(valid, num_images=_NUM_IMAGES, size=arguments.size, part="train")
    values = {
        "train_data": str(train),
        "valid_data": str(valid),
        "weights": None,
        "epochs": arguments.epochs,
        "patience": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "augment": arguments.augment,
        **dict(pair.split("=", 1) for pair in arguments.set),
    }
    rows: list[list[object]] = []
    differences = []
    for seed in range(1, arguments.seeds + 1):
        settings = {**values, "random_seed": seed}
        off, off_seconds = train_once({**settings, "progressive_resize": OFF})
        on, on_seconds = train_once({**settings, "progressive_resize": arguments.first})
        differences.append(100 * (on - off))
        rows.append(
            [seed, f"{off:.4f}", f"{on:.4f}", f"{differences[-1]:+.2f}", on_seconds / off_seconds]
        )
        print(*rows[-1], file=sys.stderr, flush=True)
    first, size = arguments.first, arguments.size
    title = f"Fashion-MNIST, {_NUM_IMAGES} images at {size}, {arguments.epochs} epochs"
    title = ", ".join([title, *arguments.set])
    columns = (
        "seed",
        "accuracy, off",
        f"accuracy, {first}",
        "difference, points",
        "time, relative",
    )
    table = format_table(columns, rows)
    return f"{make_heading(title)}\n{table}\n{describe_interval(differences)}\n"


def describe_interval(differences: list[float]) -> str:
    """Return the mean difference in points and its interval; one seed has none."""
    average = mean(differences)
    if len(differences) == 1:
        return f"Difference: {average:+.2f} points (one seed)"
    factor = float(student.ppf((1 + _CONFIDENCE) / 2, len(differences) - 1))
    half = factor * stdev(differences) / len(differences) ** 0.5
    return (
        f"Mean difference: {average:+.2f} points, {_CONFIDENCE:.0%} interval "
        f"{average - half:+.2f} to {average + half:+.2f}"
    )


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", nargs="+", default=["photos", "fashion"])
    parser.add_argument("--rounds", type=int, default=3, help="of the photos")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--augment", default="flip")
    parser.add_argument("--size", type=int, default=32, help="of the images of Fashion-MNIST")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="of training")
    parser.add_argument("--first", default=ON, help="value of the setting, beside off")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as scratch:
        os.environ["TRIALRUN_CACHE"] = f"{scratch}/cache"
        if "photos" in arguments.part:
            print(measure_photos(Path(scratch), arguments.rounds), flush=True)
        if "fashion" in arguments.part:
            print(measure_fashion(Path(scratch), arguments), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
