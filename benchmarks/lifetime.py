"""Start and exit time of a process, with Python's defaults and with trialrun's.

    python -m benchmarks.lifetime

Whole processes that import the modules of a training, alternately; the median of the rounds. Then
processes that only import torch, torchvision and mlflow, and `trialrun train` on the digits until
its first step: until the line of its first epoch, less the seconds of the epoch. Then processes
that load the modules of a training and open a new SQLite store, which this process or another one
creates.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.recovery import measure_imports, read_lines, start_training
from benchmarks.table import format_table, make_heading

ROUNDS = 5
MODULES = "import trialrun.runs.training.run, mlflow, mlflow.store.tracking.sqlalchemy_store"
PLAIN = "import sys"
OURS = (
    "from trialrun.fast_start import start_fast; from trialrun.fast_exit import FastExit; "
    "fast_exit = FastExit(); fast_exit.exit_code = 0; start_fast()"
)
CONNECT = "from trialrun.mlflow_client import connect_client; connect_client()"
STORES = {
    "an existing store": f"{MODULES}; {CONNECT}",
    "a new store, created by the process": f"{MODULES}; {CONNECT}",
    "a new store, created beside loading": (
        "from trialrun.mlflow_client import create_store_early\n"
        f"with create_store_early(): {MODULES}\n"
        f"{CONNECT}"
    ),
}
PRINT_LOADED = "print('loaded', flush=True)"


def measure_seconds(prologue: str) -> tuple[float, float]:
    """Return the seconds until all modules are loaded, and from then to the end of the process."""
    command = [sys.executable, "-c", f"{prologue}; {MODULES}; {PRINT_LOADED}"]
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            sys.exit("the modules could not be loaded")
        loaded = time.perf_counter()
        process.wait()
    return loaded - started, time.perf_counter() - loaded


def measure_first_step(folder: Path) -> float:
    """Return the seconds from the start of `trialrun train` to its first step."""
    started = time.perf_counter()
    arguments = ["train", "--epochs", "1", "--json"]
    process = start_training(folder, f"sqlite:///{folder}/mlflow.db", arguments)
    ended = next(moment for moment, line in read_lines(process) if line.startswith("Epoch 1"))
    output, _ = process.communicate()
    epoch_seconds: float = json.loads(output.splitlines()[-1])["metrics"]["epoch_seconds"]
    return ended - started - epoch_seconds


def print_first_steps() -> None:
    """Measure starts of a training and bare imports, alternately, and print the table."""
    imports, first_steps = [], []
    with tempfile.TemporaryDirectory() as folder:
        measure_first_step(Path(folder))  # creates the store, and images in the cache
        for _ in range(ROUNDS):
            imports.append(measure_imports(1))
            first_steps.append(measure_first_step(Path(folder)))
    extra = [step - bare for step, bare in zip(first_steps, imports, strict=True)]
    columns = ("bare imports, s", "train to its first step, s", "difference, s")
    row = [statistics.median(values) for values in (imports, first_steps, extra)]
    sys.stdout.write("\n" + format_table(columns, [row]))


def measure_store(program: str, path: Path) -> float:
    """Return the seconds of a process until it has opened the store in a SQLite file."""
    command = [sys.executable, "-c", f"{OURS}\n{program}"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{path}"}
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def print_stores() -> None:
    """Measure processes that open a store, alternately, and print the table."""
    seconds: dict[str, list[float]] = {name: [] for name in STORES}
    with tempfile.TemporaryDirectory() as folder:
        existing = Path(folder) / "existing.db"
        measure_store(CONNECT, existing)
        for number in range(ROUNDS):
            for name, program in STORES.items():
                path = existing if "existing" in name else Path(folder) / f"{name}-{number}.db"
                seconds[name].append(measure_store(program, path))
    rows: list[list[object]] = [[name, statistics.median(row)] for name, row in seconds.items()]
    columns = ("process that loads a training's modules and opens", "seconds")
    sys.stdout.write("\n" + format_table(columns, rows))


def main() -> int:
    """Measure and print the tables."""
    prologues = {"Python": PLAIN, "trialrun": OURS}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in prologues}
    for _ in range(ROUNDS):
        for name, prologue in prologues.items():
            seconds[name].append(measure_seconds(prologue))
    rows: list[list[object]] = [
        [name, *(statistics.median(column) for column in zip(*pairs, strict=True))]
        for name, pairs in seconds.items()
    ]
    columns = ("process", "loading, s", "exit, s")
    sys.stdout.write(make_heading("Loading and exit") + "\n" + format_table(columns, rows))
    print_first_steps()
    print_stores()
    return 0


if __name__ == "__main__":
    sys.exit(main())
