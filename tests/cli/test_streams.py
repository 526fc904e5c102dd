"""Commands that are interrupted, or whose output nobody reads or can be written to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from tests.conftest import write_classes

COMMAND = (sys.executable, "-m", "trialrun")
QUICK = ("--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8")


def status_of_only_run(store: str) -> str:
    """How the one run of the experiment ended."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    return str(run.info.status)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_any_command_that_is_interrupted_says_so(tmp_path: Path, number: signal.Signals) -> None:
    """Exit 75 and two lines, and nothing half written, of a command that keeps no run as well."""
    images = write_classes(tmp_path / "set", {"a": 3000, "b": 3000}, size=8)
    process = subprocess.Popen(
        [*COMMAND, "data", "convert", str(images), str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(1)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 75, said
    assert [line.partition(":")[0] for line in said.splitlines()] == ["Error", "Hint"]
    assert "Nothing was recorded" in said
    assert not (tmp_path / "out").exists()


def test_terminal_that_closes_ends_the_run_as_killed(store: str, colors: Path) -> None:
    """SIGHUP is told from SIGKILL: MLflow hears of it."""
    process = subprocess.Popen(
        [*COMMAND, "train", "--train-data", str(colors), *QUICK, "--epochs=500", "--patience=500"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while not process.stderr.readline().startswith("Epoch"):
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.communicate()
    assert (process.returncode, status_of_only_run(store)) == (75, "KILLED")


def test_training_goes_on_when_nobody_reads_its_progress(store: str, colors: Path) -> None:
    """The reader of both streams leaves after the first line."""
    process = subprocess.Popen(
        [*COMMAND, "train", "--train-data", str(colors), *QUICK, "--epochs=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 0
    assert status_of_only_run(store) == "FINISHED"


@pytest.mark.parametrize("streams", [">&- 2>&-", ">/dev/null 2>/dev/full"])
def test_training_goes_on_where_nothing_can_be_said(
    store: str, colors: Path, tmp_path: Path, streams: str
) -> None:
    """Streams that were closed, or lead to a full disk, are not worth a run."""
    script = tmp_path / "run.sh"
    script.write_text(f'exec "$@" {streams}')
    command = [*COMMAND, "train", "--train-data", str(colors), *QUICK, "--epochs=1"]
    done = subprocess.run(["bash", str(script), *command], env=os.environ, check=False)
    assert done.returncode == 0
    assert status_of_only_run(store) == "FINISHED"
