"""Tests of commands that are interrupted, or whose output streams fail."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from tests.conftest import write_classes
from tests.processes import ForkedProgram

COMMAND = (sys.executable, "-m", "trialrun")
QUICK = ("--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8")


def read_only_run_status(store: str) -> str:
    """Return the status of the only run of the experiment."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    return str(run.info.status)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupted_command_prints_two_lines(tmp_path: Path, number: signal.Signals) -> None:
    """A command without a run exits with 75 and leaves no partial output."""
    images = write_classes(tmp_path / "set", {"a": 3000, "b": 3000}, size=8)
    process = subprocess.Popen(
        [*COMMAND, "data", "convert", str(images), str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(1)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert [line.partition(":")[0] for line in errors.splitlines()] == ["Error", "Hint"]
    assert "Nothing was recorded" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_closing_the_terminal_ends_the_run_as_killed(store: str, colors: Path) -> None:
    """SIGHUP is handled, so MLflow records the status."""
    process = ForkedProgram(
        [*COMMAND, "train", "--train-data", str(colors), *QUICK, "--epochs=500", "--patience=500"],
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    while not process.stderr.readline().startswith("Epoch"):
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.communicate()
    assert (process.returncode, read_only_run_status(store)) == (75, "KILLED")


@pytest.mark.slow
def test_training_continues_after_its_output_pipe_closes(store: str, colors: Path) -> None:
    """The reader of both streams closes the pipe after the first line."""
    process = subprocess.Popen(
        [*COMMAND, "train", "--train-data", str(colors), *QUICK, "--epochs=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 0
    assert read_only_run_status(store) == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&- 2>&-", ">/dev/null 2>/dev/full"])
def test_training_continues_without_usable_output_streams(
    store: str, colors: Path, tmp_path: Path, streams: str
) -> None:
    """Closed streams or a full disk behind them do not fail the run."""
    script = tmp_path / "run.sh"
    script.write_text(f'exec "$@" {streams}')
    command = [*COMMAND, "train", "--train-data", str(colors), *QUICK, "--epochs=1"]
    done = subprocess.run(["bash", str(script), *command], env=os.environ, check=False)
    assert done.returncode == 0
    assert read_only_run_status(store) == "FINISHED"


INTERRUPT_IMPORT = """
import os, signal, sys, threading, time
from trialrun.errors import RunInterruptedError
from trialrun.runs.signals import interrupt_on_signals

def interrupt():
    while "torch.nn" not in sys.modules:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=interrupt).start()
try:
    with interrupt_on_signals():
        import torch
        time.sleep(5)
except RunInterruptedError:
    print("interrupted", hasattr(sys.modules.get("torch"), "compile"))
"""


@pytest.mark.slow
def test_signal_during_the_import_of_torch_waits_for_its_end() -> None:
    """An exception inside torch's C++ code would abort the process."""
    command = [sys.executable, "-c", INTERRUPT_IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted True\n"), done.stderr
