"""Start and exit time of a process, with Python's defaults and with trialrun's.

    python -m benchmarks.lifetime

Whole processes that import the modules of a training, alternately; the median of the rounds.
"""

import statistics
import subprocess
import sys
import time

from benchmarks.table import format_table, make_heading

ROUNDS = 5
MODULES = "import trialrun.runs.training.run, mlflow, mlflow.store.tracking.sqlalchemy_store"
PLAIN = "import sys"
OURS = (
    "from trialrun.fast_start import start_fast; from trialrun.fast_exit import FastExit; "
    "fast_exit = FastExit(); fast_exit.exit_code = 0; start_fast()"
)
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


def main() -> int:
    """Measure and print the table."""
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
