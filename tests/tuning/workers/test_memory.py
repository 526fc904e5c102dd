"""A search with a batch that does not fit in memory, under a real process limit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_classes

# The limit applies only while the large batch trains, not to threads and file maps that follow. It
# lies halfway between two allocations of torch: a batch of 40 takes 49 MB, the output of the first
# convolution 262 MB, and that of the first batch norm 262 MB more. The small allocations of other
# libraries never fail: oneDNN ended the process by SIGSEGV when one of its own did.
SHORT_OF_MEMORY = """
import json, resource, sys
from pathlib import Path
import trialrun
from trialrun.engine import fit
from trialrun.tuning.workers import trial_runner

fit.check_batch_fits = lambda *_: None  # it would refuse the batch before anything is allocated

def kilobytes(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

def train_with_limit(plan, *args, **kwargs):
    held_kilobytes.append(kilobytes("VmRSS"))
    if plan.config.batch_size == 40:
        limit = kilobytes("VmSize") * 1024 + 440 * 10**6
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        return train_run(plan, *args, **kwargs)
    finally:
        held_kilobytes.append(kilobytes("VmRSS"))
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

train_run, held_kilobytes = trial_runner.train_run, []
trial_runner.train_run = train_with_limit
data = {"train_data": sys.argv[1], "epochs": "1", "model": "resnet18", "image_size": "320"}
data |= {"precision": "fp32"}
trialrun.train(**data, batch_size=8)  # imports everything and allocates for a small batch
result = trialrun.search(
    **data, batch_size="8,40", learning_rate="0.001", trials=2, sampler="grid", random_seed=1,
    workers=1,  # this process holds the limit
)
print(json.dumps({"result": result.to_json(), "held_kilobytes": held_kilobytes}))
"""


@pytest.fixture
def search_output(store: str, tmp_path: Path) -> dict[str, Any]:
    """Search a grid of batch sizes 40 and 8, with memory for 8 only; return the script's output."""
    images = write_classes(tmp_path / "set", {"a": 25, "b": 25})
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(images)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return output


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_pruned_and_the_search_continues(
    search_output: dict[str, Any],
) -> None:
    """With memory for one of two batches, one trial is pruned and the other completes.

    The memory of the first trial is released before the second starts: at its start the process
    holds less than at the first trial's end, by at least 200 of the 311 MB of the failed step.
    """
    result = search_output["result"]
    assert (result["num_trials"]["complete"], result["num_trials"]["does_not_fit"]) == (1, 1)
    assert result["best_params"] == {"batch_size": 8}
    assert result["search_stop_reason"] == "exhausted"
    _, first_end, second_start, _ = search_output["held_kilobytes"]
    assert second_start < first_end - 200_000
