"""Tests of the smoke test of a training."""

import json
import stat
import time
from pathlib import Path

import mlflow
import pytest

import trialrun
from tests.conftest import write_classes
from trialrun.cli import run_cli
from trialrun.errors import InvalidParameterError, TrackingError
from trialrun.runs.training.plan import plan_training

NETWORK = "shufflenet_v2_x0_5"
Capture = pytest.CaptureFixture[str]


def test_smoke_plan_has_two_batches_of_each_set(tmp_path: Path) -> None:
    """One epoch; the classes are those of the whole set, in the same order."""
    data = write_classes(tmp_path / "set", dict.fromkeys("abcde", 20), size=8)
    plan = plan_training(
        {
            "train_data": str(data),
            "batch_size": 2,
            "epochs": 9,
            "warmup_steps": 50,
            "freeze_epochs": 3,
            "learning_rate": "auto",
            "smoke": True,
        }
    )
    assert (len(plan.train), len(plan.valid)) == (4, 8)
    assert plan.classes == tuple("abcde")
    assert (plan.config.epochs, plan.config.warmup_steps, plan.config.freeze_epochs) == (1, 0, 0)
    assert plan.config.learning_rate == 0.001


def test_smoke_plan_has_all_classes_if_two_batches_hold_them(tmp_path: Path) -> None:
    """A class of few images is among them."""
    data = write_classes(tmp_path / "set", {"few": 3, "many": 60}, size=8)
    plan = plan_training({"train_data": str(data), "batch_size": 4, "smoke": True})
    assert plan.train.count_classes() == {"few": 2, "many": 6}


def test_smoke_test_tries_the_path_and_registers_nothing(store: str, tmp_path: Path) -> None:
    """The run and its model are tagged; the stored model has scored images."""
    data = write_classes(tmp_path / "set", dict.fromkeys("abcde", 12))
    started = time.monotonic()
    result = trialrun.train(
        train_data=str(data),
        model=NETWORK,
        batch_size=2,
        learning_rate=1e-5,  # batch norm over two images is unstable
        register_as="colors",
        smoke=True,
    )
    assert time.monotonic() - started < 15
    client = mlflow.MlflowClient(store)
    run = client.get_run(result.run_id)
    assert (run.data.tags["smoke_test"], run.info.status) == ("true", "FINISHED")
    assert run.info.run_name == "smoke test"
    model = client.get_logged_model(str(result.model_uri).removeprefix("models:/"))
    assert model.tags["smoke_test"] == "true"
    assert client.search_registered_models() == []
    assert result.smoke_test is not None
    assert (result.smoke_test["num_train_images"], result.smoke_test["num_scored"]) == (4, 2)
    assert result.smoke_test["registry"] == "colors"


def test_smoke_test_finds_an_artifact_store_that_is_not_writable(
    store: str, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The error is that of a whole training, with its exit code."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, in which no folder can be made; also for root")
    blocked.chmod(stat.S_IRUSR)
    mlflow.MlflowClient(store).create_experiment("shut", artifact_location=str(blocked / "in"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shut")
    arguments = ["--train-data", str(colors), "--model", NETWORK, "--batch-size", "4"]
    assert run_cli(["train", "--smoke", *arguments]) in (5, 6)
    assert "passed" not in capsys.readouterr().out


def test_smoke_test_names_a_wrong_register_as(capsys: Capture) -> None:
    """It is found before the images are read."""
    assert run_cli(["train", "--smoke", "--register-as", "a/b"]) == 2
    assert "register_as=a/b is not" in capsys.readouterr().err


def test_smoke_test_looks_up_the_registered_model(
    store: str, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that does not answer fails the test before training."""
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError):
        trialrun.train(train_data=str(colors), model=NETWORK, register_as="colors", smoke=True)


def test_offline_smoke_test_passes_without_a_store(
    store: str, colors: Path, tmp_path: Path, capsys: Capture
) -> None:
    """What needs the store is not tried, and the summary says so."""
    arguments = ["--train-data", str(colors), "--model", NETWORK, "--batch-size", "4"]
    folder = ["--offline", "--checkpoint-dir", str(tmp_path / "runs")]
    assert run_cli(["train", "--smoke", *arguments, *folder]) == 0
    printed = capsys.readouterr().out
    assert "Smoke test passed" in printed
    assert "not tried (offline)" in printed


def test_smoke_test_prints_json(store: str, colors: Path, capsys: Capture) -> None:
    """The JSON object has what was tried; the summary goes to standard error."""
    arguments = ["--train-data", str(colors), "--model", NETWORK, "--batch-size", "4"]
    assert run_cli(["train", "--smoke", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["smoke_test"]["num_scored"] == 4
    assert "Smoke test passed: " in captured.err


def test_search_refuses_a_smoke_test(colors: Path) -> None:
    """Its trials would be compared by two batches."""
    with pytest.raises(InvalidParameterError, match="smoke=true is not possible in a search"):
        trialrun.search(train_data=str(colors), smoke=True)
