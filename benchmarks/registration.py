"""Time from the last epoch of a training to the registered version, and its parts.

    python -m benchmarks.registration [--rounds 3] [--model resnet18] [--compare SOURCES]

Each round trains one epoch on a few photos at 224 pixels with `register_as`, in a process of its
own and with a new SQLite store. `registration` is the time from the end of the last epoch to the
result with its version; the other rows are parts of it, and parts of each other. Then the stored
model's directory is registered again: `model register` by the function, and `command` the whole
command in a new process, the imports of torch and MLflow included. Medians over the rounds, in
seconds of elapsed time and of processor time.

`--compare` names the `src` folder of another version. Both versions take turns, as other programs
may run; the ratios are this version's over the other's.
"""

import argparse
import functools
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.photos import write_photos
from benchmarks.table import format_table, make_heading

NUM_PHOTOS, SIZE = 64, 224
ROOT = Path(__file__).parents[1]

Cost = tuple[float, float]  # seconds: elapsed, and of the processor

# Functions by where they are looked up; a version that lacks one has no such part.
PARTS: Mapping[str, tuple[str, str]] = {
    "weights to bytes": ("trialrun.models.weights.serialization", "serialize_state"),
    "predictions and tables": ("trialrun.runs.training.execution", "log_validation"),
    "directory, in training": ("trialrun.models.directory", "write_model_directory"),
    "directory, in parity": ("trialrun.runs.training.outcome.parity", "write_model_directory"),
    "parity": ("trialrun.runs.training.execution", "measure_parity"),
    "- networks' passes": ("trialrun.runs.training.outcome.parity", "compute_all"),
    "- load_model": ("trialrun.runs.training.outcome.parity", "open_classifier"),
    "- MLflow's files": ("trialrun.runs.training.outcome.parity", "add_serving_files"),
    "- load pyfunc": ("trialrun.runs.training.outcome.parity", "load_served_model"),
    "upload and check": ("trialrun.runs.training.outcome.model_upload", "upload_model"),
    "- check": ("trialrun.registry.models", "_check_upload"),
    "registry": ("trialrun.runs.training.outcome.model_upload", "register_once"),
}


@contextmanager
def measure(name: str, costs: dict[str, Cost]) -> Iterator[None]:
    """Add the cost of the block to `costs`."""
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        elapsed, cpu = costs.get(name, (0.0, 0.0))
        costs[name] = (
            elapsed + time.perf_counter() - started,
            cpu + time.process_time() - cpu_started,
        )


def watch_parts(costs: dict[str, Cost]) -> None:
    """Replace the functions of the parts by ones that measure themselves."""
    for part, (module_name, name) in PARTS.items():
        module = importlib.import_module(module_name)
        if function := getattr(module, name, None):
            setattr(module, name, _watch(function, part, costs))


def _watch(function: Callable[..., Any], part: str, costs: dict[str, Cost]) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        with measure(part, costs):
            return function(*args, **kwargs)

    return watched


def measure_here(model: str, folder: Path) -> dict[str, Cost]:
    """Train and register in this process; return the cost of each part."""
    from trialrun.engine.early_stopping import EpochStatus
    from trialrun.runs.api import run_training
    from trialrun.runs.callbacks import NoOpCallback
    from trialrun.runs.registration import register_model

    costs: dict[str, Cost] = {}
    ends: list[Cost] = []

    class Watch(NoOpCallback):
        def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
            costs.clear()
            ends.append((time.perf_counter(), time.process_time()))

    watch_parts(costs)
    photos = write_photos(folder / "photos", NUM_PHOTOS, seed=1)
    settings = {"train_data": str(photos), "model": model, "weights": "none", "epochs": 1}
    settings |= {"image_size": SIZE, "register_as": "trained"}
    result = run_training(settings, lambda: nullcontext(Watch()))
    assert result.model_version == "1"
    parts = dict(costs)
    registration = (time.perf_counter() - ends[0][0], time.process_time() - ends[0][1])
    directory = _find_directory(folder)
    with measure("model register", costs):
        register_model(str(directory), "given")
    command = [sys.executable, "-m", "trialrun", "model", "register", str(directory), "command"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    elapsed, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "registration": registration,
        **{part: parts[part] for part in PARTS if part in parts},
        "model register": costs["model register"],
        "- command": (elapsed, cpu),
    }


def _find_directory(folder: Path) -> Path:
    """Return the stored model's directory."""
    (manifest,) = folder.glob("mlruns/**/manifest.json")
    return manifest.parent


def measure_child(sources: Path, model: str) -> dict[str, Cost]:
    """Call `measure_here` in a process that imports trialrun from `sources`."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "PYTHONPATH": f"{sources.resolve()}{os.pathsep}{ROOT}",
            "XDG_CACHE_HOME": folder,
        }
        command = [sys.executable, "-m", "benchmarks.registration", "--child", "--model", model]
        output = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    costs: dict[str, Cost] = json.loads(output.stdout.splitlines()[-1])
    return costs


def compute_median(rounds: list[dict[str, Cost]], part: str, kind: int) -> float | None:
    """Return the median cost of a part; None if this version does not have it."""
    values = [costs[part][kind] for costs in rounds if part in costs]
    return statistics.median(values) if values else None


def compute_ratio(
    rounds: list[dict[str, Cost]], others: list[dict[str, Cost]], part: str, kind: int
) -> float | str:
    """Return the median ratio of the rounds' costs of a part."""
    pairs = zip(rounds, others, strict=True)
    ratios = [a[part][kind] / b[part][kind] for a, b in pairs if part in a and part in b]
    return statistics.median(ratios) if ratios else "-"


def list_rows(
    rounds: list[dict[str, Cost]], others: list[dict[str, Cost]]
) -> Iterator[list[object]]:
    """Yield one row per part: seconds of this version, of the other one, and ratios."""
    for part in dict.fromkeys(part for costs in (*others, *rounds) for part in costs):
        row: list[object] = [part]
        for version in (rounds, others) if others else (rounds,):
            for kind in (0, 1):
                seconds = compute_median(version, part, kind)
                row.append("-" if seconds is None else seconds)
        if others:
            row += [compute_ratio(rounds, others, part, kind) for kind in (0, 1)]
        yield row


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--compare", type=Path, metavar="SOURCES")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        costs = measure_here(arguments.model, Path.cwd())
        sys.stdout.write(json.dumps(costs) + "\n")
        return 0
    rounds: list[dict[str, Cost]] = []
    others: list[dict[str, Cost]] = []
    versions = [(ROOT / "src", rounds)]
    if arguments.compare:
        versions.append((arguments.compare, others))
    for _ in range(arguments.rounds):
        for sources, measured in versions:
            measured.append(measure_child(sources, arguments.model))
        versions.reverse()  # so that no version is always the first
    columns = ["part", "s", "CPU s"]
    if others:
        columns += ["other, s", "other, CPU s", "ratio", "ratio of CPU"]
    heading = make_heading(f"Registration of {arguments.model} at {SIZE} pixels")
    table = format_table(columns, list(list_rows(rounds, others)))
    sys.stdout.write(f"{heading}\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
