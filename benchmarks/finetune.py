"""Accuracy and time of fine-tuning MobileNetV2 from its real weights, on three sets of pictures.

    python -m benchmarks.finetune [--sets photos dozen fashion] [--seeds 3] [--cases ...]
    python -m benchmarks.finetune --settings  # layer_decay and learning_rate=auto on all three sets

The sets: six kinds of pictures of Tux Paint; six others with a dozen pictures each; 300 images of
Fashion-MNIST at 96 pixels. A seed decides the split (a fifth is validation), the last layer and the
order. Accuracy is that of the epoch with the lowest validation loss, as in a run; the time is that
of training and validation, with the images decoded. The logistic probe is scikit-learn's
LogisticRegression on the features of the frozen network, on the same split.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.fetched import fetch_mobilenet_weights, fetch_stamps, write_fashion
from benchmarks.table import format_table, make_heading
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.early_stopping import EarlyStopping
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.inputs.data import prepare_data
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.session import TrainingSession, resolve_rank_compute, start_session

PHOTOS = (
    "animals/mammals",
    "animals/birds",
    "household",
    "food/fruit",
    "plants/flowers",
    "food/vegetables",
)
DOZEN = (
    "clothes",
    "symbols/chess",
    "symbols/music",
    "household/tools",
    "symbols/math",
    "town/roadsigns",
)
PLAIN = {
    "freeze_epochs": 0,
    "head_start": "random",
    "batch_norm": "batch",
    "clip_grad_norm": None,
}
CASES: dict[str, dict[str, Any]] = {
    "from scratch": {"weights": None},
    "all layers, plain": PLAIN,
    "last layer only, plain": {**PLAIN, "freeze": "backbone"},
    "last layer only": {"freeze": "backbone"},
    "defaults": {},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "layer_decay 0.9": {"layer_decay": 0.9},
    "layer_decay 0.7": {"layer_decay": 0.7},
    "learning_rate auto": {"learning_rate": "auto"},
    "both": {"layer_decay": 0.7, "learning_rate": "auto"},
}
PROBE = "logistic probe"


class Clocks:
    """The time and the processor time, which other processes disturb less, since its creation."""

    def __init__(self) -> None:
        self._started, self._cpu_started = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return both in seconds."""
        return time.perf_counter() - self._started, time.process_time() - self._cpu_started


def write_stamps(folder: Path, subjects: tuple[str, ...], limit: int | None = None) -> Path:
    """Copy the pictures of some subjects, without mirrored ones, evenly spaced if limited."""
    stamps = fetch_stamps()
    for subject in subjects:
        files = sorted(
            path
            for path in (stamps / subject).rglob("*.png")
            if "_mirror" not in path.name and "cartoon" not in path.parts
        )
        if limit is not None:
            files = files[:: max(len(files) // limit, 1)][:limit]
        target = folder / subject.replace("/", "-")
        target.mkdir(parents=True)
        for number, path in enumerate(files):
            shutil.copy(path, target / f"{number:03}.png")
    return folder


def start(data: Path, seed: int, settings: dict[str, Any]) -> tuple[TrainingSession, Clocks]:
    """Decode the images; return the session before its first epoch, and its clocks."""
    values = {"train_data": str(data), "model": "mobilenet_v2", "random_seed": seed}
    plan = plan_training({**values, "weights": str(fetch_mobilenet_weights()), **settings})
    prepared = prepare_data(plan, NoOpCallback())
    clocks = Clocks()
    return start_session(plan, prepared, resolve_rank_compute(plan), SINGLE_PROCESS), clocks


def train(data: Path, seed: int, settings: dict[str, Any]) -> tuple[float, float, float]:
    """Train; return the accuracy of the best epoch, the seconds and the CPU seconds."""
    session, clocks = start(data, seed, settings)
    session.prepare()
    results = [status.result for status in session.epochs(EarlyStopping(session.plan.config))]
    best = min(results, key=lambda result: result.validation.loss)
    return best.validation.accuracy, *clocks.read()


def fit_probe(data: Path, seed: int) -> tuple[float, float, float]:
    """Fit scikit-learn's logistic regression to the features; return as `train` does."""
    from sklearn.linear_model import LogisticRegression

    session, clocks = start(data, seed, {**PLAIN, "freeze": "backbone"})
    (train_x, train_y), (valid_x, valid_y) = (
        (images.source.pixels(images.rows).numpy(), images.labels)
        for images in (session.state.data.train, session.state.data.valid)
    )
    fitted = LogisticRegression(max_iter=1000).fit(train_x, train_y)
    return float(fitted.score(valid_x, valid_y)), *clocks.read()


def measure(name: str, data: Path, cases: list[str], seeds: int) -> list[list[object]]:
    """Return one row per case, as in the table."""
    rows: list[list[object]] = []
    for case in cases:
        results = [
            fit_probe(data, seed) if case == PROBE else train(data, seed, (CASES | SETTINGS)[case])
            for seed in range(1, seeds + 1)
        ]
        accuracies, seconds, cpu_seconds = zip(*results, strict=True)
        row = [name, case, mean(accuracies), min(accuracies), mean(seconds), mean(cpu_seconds)]
        rows.append(row)
        print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["photos", "dozen", "fashion"])
    cases = parser.add_mutually_exclusive_group()
    cases.add_argument("--cases", nargs="+", default=[*CASES, PROBE])
    cases.add_argument("--settings", dest="cases", action="store_const", const=[*SETTINGS])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as scratch:
        os.environ["TRIALRUN_CACHE"] = f"{scratch}/cache"
        for name in arguments.sets:
            folder = Path(scratch) / name
            if name == "fashion":
                write_fashion(folder, num_images=300, size=96)
            else:
                subjects, limit = (PHOTOS, None) if name == "photos" else (DOZEN, 12)
                write_stamps(folder, subjects, limit)
            rows += measure(name, folder, arguments.cases, arguments.seeds)
    columns = ("set", "case", "accuracy", "lowest", "seconds", "CPU seconds")
    title = f"Fine-tuning MobileNetV2, 5 epochs, {arguments.seeds} seeds"
    sys.stdout.write(make_heading(title) + "\n" + format_table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
