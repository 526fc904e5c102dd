"""Searches with worker processes: what holds for one process holds for several."""

import json
import subprocess
import sys
from pathlib import Path

import trialrun
from searching import settings


def test_workers_prune_as_the_search_says(store: str, colors: Path, tmp_path: Path) -> None:
    """Two workers train hopeless trials to their end where the pruner is none."""
    rates = (0.001, 0.0011, 0.0012, 0.0013, 0.0014, 0.1, 0.1, 0.1)
    file = tmp_path / "starts.json"
    file.write_text(json.dumps([{"learning_rate": rate} for rate in rates]))
    given = settings(colors, trials=9, epochs=2, batch_size=4, enqueue=str(file))
    result = trialrun.run_search(**given, workers=2, pruner="none")
    assert (result.num_trials["complete"], result.num_trials["pruned"]) == (9, 0)


def test_workers_print_nothing_of_mlflows(store: str, colors: Path) -> None:
    """MLflow prints links to runs, in which a password may stand: standard output has one line."""
    flags = [f"--{name.replace('_', '-')}={text}" for name, text in settings(colors).items()]
    command = [sys.executable, "-m", "trialrun", "search", "--json", "--trials=2", "--workers=2"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["num_trials"]["complete"] == 2
