"""Training with less memory than the batch needs, in real processes with a limit."""

import json
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from tests.conftest import write_classes
from tests.processes import run_program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS limits memory on Linux only"),
]

# Imports everything first, so that the limit is for the training alone, in megabytes.
LIMITED = """
import json, resource, sys
from pathlib import Path
import mlflow, optuna, pandas, sklearn, matplotlib.pyplot
import torch, torchvision
import trialrun
from trialrun.cli import main

torch.nn.Conv2d(3, 8, 3)(torch.ones(2, 3, 64, 64)).sum().backward()  # starts torch's threads
limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit += int(sys.argv.pop(1)) * 10**6
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.argv[0] = "trialrun"
main()
"""


def train_with_limit(
    megabytes: int, data: Path, **settings: object
) -> "subprocess.CompletedProcess[str]":
    """Run `trialrun train` in a process that may take `megabytes` more than it starts with."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = ["train", f"--train-data={data}", "--model=resnet18", "--image-size=128"]
    command += ["--weights=none", *flags]
    return run_program(
        [sys.executable, "-c", LIMITED, str(megabytes), *command, "--epochs=1", "--json"]
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """160 images of two classes."""
    return write_classes(tmp_path / "photos", {"a": 80, "b": 80}, size=128)


def test_batch_size_of_the_hint_works_with_the_same_memory(store: str, photos: Path) -> None:
    """The first process exits with 7 and names a size, with which a second one finishes."""
    limits = {"megabytes": 1500, "data": photos, "precision": "fp32"}
    failed = train_with_limit(**limits, batch_size=128)  # type: ignore[arg-type]
    assert failed.returncode == 7, failed.stderr
    error, hint = failed.stderr.splitlines()[-2:]
    assert error.startswith("Error: OutOfMemoryError: a batch of 128 images")
    found = re.search(r"batch_size=(\d+), which fits \(tried\).* accumulate_steps=\d+", hint)
    assert found is not None, hint
    assert int(found[1]) >= 8
    for settings in (
        {"batch_size": found[1]},
        {"batch_size": 128, "accumulate_steps": "auto"},
    ):
        done = train_with_limit(**limits, **settings)  # type: ignore[arg-type]
        assert done.returncode == 0, (settings, done.stderr)
    run = mlflow.MlflowClient(store).get_run(json.loads(done.stdout)["run_id"])
    assert int(run.data.tags["resolved_accumulate_steps"]) > 1
    assert "each batch is computed in" in done.stderr
