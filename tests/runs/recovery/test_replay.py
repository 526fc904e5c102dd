"""`trialrun resume --replay` on runs whose loss became NaN."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest

import trialrun
from tests.runs.recovery.interruptions import SETTINGS
from trialrun.cli import run_cli as command
from trialrun.engine.compute.torch_errors import NonFiniteLossError


def train_until_nan(store: str, colors: Path, **settings: Any) -> str:
    """Train with a learning rate that is far too high; return the id of the failed run."""
    values = {**SETTINGS, "learning_rate": 1e30, **settings}
    with pytest.raises(NonFiniteLossError) as raised:
        trialrun.train(train_data=str(colors), **values)
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert f"trialrun resume {run.info.run_id} --replay" in raised.value.hint
    return str(run.info.run_id)


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_replay_names_layer_step_and_images(
    store: str, colors: Path, capsys: pytest.CaptureFixture[str], accumulate_steps: int
) -> None:
    """After the first step all weights are huge: a layer overflows for every image of the second.

    Nothing is logged.
    """
    run_id = train_until_nan(store, colors, accumulate_steps=accumulate_steps)
    before = mlflow.MlflowClient(store).get_run(run_id)
    assert command(["resume", run_id, "--replay", "--json"]) == 0
    step = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (step["run_id"], step["epoch"], step["num_images"]) == (run_id, 1, 8)
    assert step["step"] == 2
    assert step["layer"]
    assert step["kind"] in ("BatchNorm2d", "Conv2d", "Linear")
    assert step["has_finite_weights"] is True
    assert len(step["images"]) == 8
    assert all((colors / name).is_file() for name in step["images"])
    after = mlflow.MlflowClient(store).get_run(run_id)
    assert after.to_dictionary() == before.to_dictionary()


def test_replay_prints_names(store: str, colors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--last` finds the failed run; the names of the images are on standard output."""
    train_until_nan(store, colors)
    assert command(["resume", "--last", "--replay"]) == 0
    out, error = capsys.readouterr()
    assert "Not finite at this layer: 8 of 8 images" in error
    assert len([line for line in out.splitlines() if line.endswith(".png")]) == 8


def test_run_that_was_fine_is_refused(
    store: str, colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 5, and the error says which runs can be replayed."""
    result = trialrun.train(train_data=str(colors), **{**SETTINGS, "epochs": 1})
    assert command(["resume", result.run_id, "--replay"]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["Error", "Hint"]
    assert "did not stop because of its loss" in lines[0]
