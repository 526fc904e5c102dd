"""The programs above this process."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from trialrun.launchers import find_launchers, is_alive, is_mlflow_run, is_torchrun


@pytest.mark.parametrize(
    ("command", "is_launcher"),
    [
        ("/venv/bin/python /venv/bin/mlflow run . -P epochs=2", True),
        ("mlflow --env-file settings.env run .", True),
        ("python -m mlflow run .", True),
        ("python3 -u -m mlflow run .", True),
        ("python -m trialrun train --run-name mlflow run", False),
        ("/venv/bin/mlflow server --port 5000", False),
        ("bash -c", False),
        ("", False),
    ],
)
def test_mlflow_run_is_recognised(command: str, is_launcher: bool) -> None:
    """As a script or a module; other commands of MLflow are no launchers."""
    assert is_mlflow_run(command.split()) is is_launcher


@pytest.mark.parametrize(
    ("command", "is_launcher"),
    [
        ("/venv/bin/python /venv/bin/torchrun --nproc-per-node=2 -m trialrun train", True),
        ("python -m torch.distributed.run -m trialrun train", True),
        ("python -u -m trialrun train", False),
    ],
)
def test_torchrun_is_recognised(command: str, is_launcher: bool) -> None:
    """As a script or a module."""
    assert is_torchrun(command.split()) is is_launcher


def test_process_without_launcher_watches_nothing() -> None:
    """Neither the variables nor an ancestor alone make a launcher."""
    assert find_launchers({}) == []
    assert find_launchers({"MLFLOW_RUN_ID": "1", "TORCHELASTIC_RUN_ID": "1"}) == []


_LAUNCHER = """
import subprocess, sys
subprocess.run(["bash", "-c", f"'{sys.executable}' '{sys.argv[2]}'; true"], check=True)
"""
_CHILD = """
from trialrun.launchers import find_launchers, find_project_pid
chain = find_launchers({"MLFLOW_RUN_ID": "1"})
for process in chain:
    print(process.cmdline()[1])
print(find_project_pid() == chain[-1].pid)
"""


def test_chain_ends_at_the_launcher(tmp_path: Path) -> None:
    """A shell between `mlflow run` and this process belongs to it; what is above does not."""
    launcher, child = tmp_path / "mlflow", tmp_path / "child.py"
    launcher.write_text(_LAUNCHER)
    child.write_text(_CHILD)
    command = [sys.executable, str(launcher), "run", str(child)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-c", str(launcher), "True"]


def test_zombie_is_not_alive() -> None:
    """A killed process that nobody waits for still has a pid."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    process = psutil.Process(child.pid)
    deadline = time.monotonic() + 10
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(process)
    child.wait()
    assert not is_alive(process)
