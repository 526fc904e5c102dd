"""What loading and leaving cost a process, as Python does it and as ours.

    python -m benchmarks.lifetime

Whole processes that import what a training imports, in turn; the median of the rounds.
"""

import statistics
import subprocess
import sys
import time

from benchmarks.table import heading, table

ROUNDS = 5
MODULES = "import trialrun.runs.training.run, mlflow, mlflow.store.tracking.sqlalchemy_store"
PLAIN = "import sys"
OURS = "from trialrun.cli.process import *; end = Departure(); end.exit_code = 0; " + (
    "load_without_collections()"
)
SAY_LOADED = "print('loaded', flush=True)"


def seconds_of(beginning: str) -> tuple[float, float]:
    """From the start until all is loaded, and from there to the end of the process."""
    command = [sys.executable, "-c", f"{beginning}; {MODULES}; {SAY_LOADED}"]
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
    """Print the table."""
    ways = {"Python's": PLAIN, "ours": OURS}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, beginning in ways.items():
            found[name].append(seconds_of(beginning))
    rows: list[list[object]] = [
        [name, *(statistics.median(column) for column in zip(*pairs, strict=True))]
        for name, pairs in found.items()
    ]
    columns = ("way", "loading, s", "leaving, s")
    sys.stdout.write(heading("Loading and leaving") + "\n" + table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
