"""Training runs, end to end, on a real store: what is recorded, and how each ends."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run

import trialrun
from tests.conftest import write_classes
from trialrun.errors import InvalidDatasetError, InvalidParameterError, TrackingError
from trialrun.runs.training.plan import plan_training

NETWORK = "shufflenet_v2_x0_5"
QUICK: dict[str, Any] = {"model": NETWORK, "epochs": 2, "batch_size": 8, "learning_rate": 0.05}


def the_run(store: str, run_id: str) -> Run:
    """A run's record."""
    return mlflow.MlflowClient(store).get_run(run_id)


def dataset_digests(store: str, run_id: str) -> list[str]:
    """The digests of a run's inputs."""
    inputs = the_run(store, run_id).inputs
    assert inputs is not None
    return [each.dataset.digest for each in inputs.dataset_inputs]


def text_artifact(run_id: str, name: str) -> str:
    """A text that was stored with a run."""
    return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{name}"))


def test_run_records_settings_and_what_they_came_to(store: str, colors: Path) -> None:
    """Every setting is a parameter under its own name, beside what was resolved."""
    result = trialrun.train(train_data=str(colors), random_seed=-5, **QUICK)
    params = the_run(store, result.run_id).data.params
    assert (params["epochs"], params["random_seed"], params["valid_data"]) == ("2", "-5", "none")
    assert (params["resolved_image_size"], params["num_classes"]) == ("32", "3")
    assert params["resolved_precision"] in ("fp32", "bf16")  # as the processor has it
    assert params["resolved_layout"] == "NHWC"
    assert (params["num_train_images"], params["num_valid_images"]) == ("30", "6")


def test_every_epoch_has_one_value_a_metric(store: str, colors: Path) -> None:
    """Steps count from 1, and linking the best epoch to the model adds no second value."""
    result = trialrun.train(train_data=str(colors), **QUICK)
    client = mlflow.MlflowClient(store)
    for name in (
        "train_loss",
        "train_accuracy",
        "valid_loss",
        "valid_accuracy",
        "learning_rate",
        "epochs_without_improvement",
        "train_images_per_second",
        "valid_images_per_second",
        "data_wait_fraction",
        "epoch_seconds",
    ):
        history = client.get_metric_history(result.run_id, name)
        assert [metric.step for metric in history] == [1, 2], name
    assert "valid_top5_accuracy" not in the_run(store, result.run_id).data.metrics


def test_system_metrics_stand_beside(store: str, colors: Path) -> None:
    """MLflow's sampling of the machine is part of the record."""
    result = trialrun.train(train_data=str(colors), **QUICK)
    metrics = the_run(store, result.run_id).data.metrics
    assert any(name.startswith("system/") for name in metrics)


def test_datasets_have_digests_of_their_content(store: str, colors: Path) -> None:
    """The same images have the same digest, one changed byte another; both sets are inputs."""
    first = trialrun.train(train_data=str(colors), **QUICK)
    second = trialrun.train(train_data=str(colors), **QUICK)
    digests = dataset_digests(store, first.run_id)
    assert digests == dataset_digests(store, second.run_id)
    assert len(set(digests)) == 2
    (colors / "red" / "000.png").write_bytes((colors / "red" / "001.png").read_bytes())
    third = trialrun.train(train_data=str(colors), **QUICK)
    assert dataset_digests(store, third.run_id) != digests


def test_model_is_linked_to_run_metrics_and_registered(store: str, colors: Path) -> None:
    """The LoggedModel has its best epoch's figures; the version has tags to find it by."""
    result = trialrun.train(train_data=str(colors), register_as="colors", **QUICK)
    client = mlflow.MlflowClient(store)
    assert result.model_uri is not None
    model = client.get_logged_model(result.model_uri.removeprefix("models:/"))
    linked = {metric.key: metric for metric in model.metrics or ()}
    assert linked["valid_loss"].value == result.metrics["valid_loss"]
    assert linked["valid_loss"].step == result.best_epoch
    assert linked["valid_loss"].dataset_name == "valid"
    assert model.source_run_id == result.run_id
    version = client.get_model_version("colors", "1")
    assert version.tags["weights_sha256"] == result.weights_sha256
    assert float(version.tags["valid_accuracy"]) == pytest.approx(
        result.metrics["valid_accuracy"], rel=1e-5
    )
    assert {"train_digest", "valid_digest"} <= version.tags.keys()


@pytest.mark.parametrize("uri", ["models:/colors/1", "runs:/{run_id}/model"])
def test_model_is_found_by_every_address(store: str, colors: Path, uri: str) -> None:
    """The registry's address and the run's lead to the same weights."""
    result = trialrun.train(train_data=str(colors), register_as="colors", **QUICK)
    classifier = trialrun.load_model(uri.format(run_id=result.run_id))
    assert classifier.classes == ("blue", "green", "red")
    assert not classifier.training


def test_early_stop_keeps_and_registers_the_best_epoch(store: str, colors: Path) -> None:
    """A learning rate that diverges stops the run; the best epoch's weights are what is kept."""
    result = trialrun.train(
        train_data=str(colors),
        register_as="colors",
        schedule="constant",
        **{**QUICK, "epochs": 30, "patience": 1, "learning_rate": 0.05},
    )
    assert result.stop_reason == "early_stop"
    assert result.best_epoch < result.stopped_epoch
    run = the_run(store, result.run_id)
    assert run.data.tags["stop_reason"] == "early_stop"
    assert run.data.tags["best_epoch"] == str(result.best_epoch)
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/colors/1"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["model.safetensors"]["sha256"] == result.weights_sha256
    # A run that ends with its best epoch, in all else the same, has the same weights.
    alone = trialrun.train(
        train_data=str(colors),
        schedule="constant",
        **{**QUICK, "epochs": result.best_epoch, "patience": 30, "learning_rate": 0.05},
    )
    assert alone.weights_sha256 == result.weights_sha256


def test_events_tell_the_story(store: str, colors: Path) -> None:
    """events.jsonl has a line an epoch and ends with why training stopped."""
    result = trialrun.train(train_data=str(colors), **QUICK)
    events = [
        json.loads(line) for line in text_artifact(result.run_id, "events.jsonl").splitlines()
    ]
    assert [event.get("epoch") for event in events] == [1, 2, None]
    last = events[-1]
    assert (last["event"], last["stop_reason"]) == ("stopped", "completed")
    assert last["weights_sha256"] == result.weights_sha256


def test_bad_image_is_skipped_and_listed(store: str, tmp_path: Path) -> None:
    """One unreadable image of many is a row in skipped.csv, and of the manifest."""
    data = write_classes(tmp_path / "d", {"a": 15, "b": 15})
    (data / "a" / "broken, one.png").write_bytes(b"no picture")
    valid = write_classes(tmp_path / "v", {"a": 3, "b": 3}, seed=50)
    result = trialrun.train(train_data=str(data), valid_data=str(valid), **QUICK)
    rows = list(csv.DictReader(io.StringIO(text_artifact(result.run_id, "skipped.csv"))))
    assert [row["name"] for row in rows] == ["a/broken, one.png"]
    manifest = text_artifact(result.run_id, "manifest.jsonl").splitlines()
    assert len(manifest) == 37
    with pytest.raises(InvalidDatasetError, match="1 of 31"):
        trialrun.train(train_data=str(data), valid_data=str(valid), strict=True, **QUICK)


def test_mostly_unreadable_data_is_an_error(store: str, tmp_path: Path) -> None:
    """More than a tenth is no accident; the run is FAILED and says why."""
    data = write_classes(tmp_path / "d", {"a": 5, "b": 5})
    for number in range(4):
        (data / "a" / f"broken{number}.png").write_bytes(b"")
    with pytest.raises(InvalidDatasetError, match="empty file"):
        trialrun.train(train_data=str(data), **QUICK)
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert "InvalidDatasetError" in run.data.tags["error"]


def test_model_of_no_numbers_is_not_kept(store: str, colors: Path) -> None:
    """Only validation judges the last step: where no loss is a number, nothing is registered."""
    settings = {**QUICK, "epochs": 1, "batch_size": 36, "learning_rate": 1e38}
    with pytest.raises(
        trialrun.errors.TrialrunError, match="no epoch had a finite validation loss"
    ):
        trialrun.train(
            train_data=str(colors), valid_data=str(colors), register_as="colors", **settings
        )
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["stop_reason"]) == ("FAILED", "non_finite_loss")
    assert client.search_registered_models() == []


def test_non_finite_loss_fails_and_registers_nothing(store: str, colors: Path) -> None:
    """Fault 46: FAILED, stop_reason, no model."""
    with pytest.raises(trialrun.errors.TrialrunError, match="no longer a number"):
        trialrun.train(
            train_data=str(colors), register_as="colors", **{**QUICK, "learning_rate": 1e30}
        )
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["stop_reason"]) == ("FAILED", "non_finite_loss")
    assert client.search_registered_models() == []


def test_batch_larger_than_the_set_is_told(colors: Path) -> None:
    """The error says how many images there are."""
    with pytest.raises(InvalidParameterError, match=r"batch_size=31 .* \(30 images\)"):
        plan_training({"train_data": str(colors), "batch_size": 31})


def test_parameters_and_data_are_judged_together(tmp_path: Path) -> None:
    """A wrong number and two wrong folders come in one answer."""
    one = write_classes(tmp_path / "one", {"only": 2})
    with pytest.raises(InvalidParameterError) as raised:
        plan_training({"train_data": str(one), "valid_data": "/no/such", "epochs": 0})
    text = str(raised.value)
    assert "epochs=0" in text
    assert "one class only" in text
    assert "/no/such" in text


@pytest.mark.parametrize(
    ("setting", "value"), [("warmup_steps", 100_000), ("warmup_epochs", 5)], ids=str
)
def test_a_warm_up_longer_than_the_run_is_refused(setting: str, value: int, colors: Path) -> None:
    """Before anything is trained, with the number of steps that the run has."""
    with pytest.raises(InvalidParameterError, match=r"5 epochs of 2 steps"):
        plan_training({"train_data": str(colors), "batch_size": 15, setting: value})


def test_two_units_of_the_warm_up_and_a_wrong_number_are_judged_together(colors: Path) -> None:
    """A contradiction between settings does not hide what else is wrong."""
    with pytest.raises(InvalidParameterError) as raised:
        plan_training(
            {"train_data": str(colors), "warmup_steps": 1, "warmup_epochs": 1, "valid_data": "/no"}
        )
    assert "both set" in str(raised.value)
    assert "/no" in str(raised.value)


@pytest.mark.parametrize("name", ["a/b", "a:1", "..", ".", ""])
def test_a_name_that_no_registry_takes_is_told_at_once(name: str, colors: Path) -> None:
    """Not after the training, and as a wrong parameter."""
    with pytest.raises(InvalidParameterError, match=r"register_as(=| is empty)"):
        plan_training({"train_data": str(colors), "register_as": name})


def test_server_that_is_not_there_is_a_tracking_error(
    monkeypatch: pytest.MonkeyPatch, colors: Path
) -> None:
    """Fault 44: exit 5, and soon."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError) as raised:
        trialrun.train(train_data=str(colors), **QUICK)
    assert "MLFLOW_TRACKING_URI" in raised.value.hint


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_signal_ends_the_run_as_killed(
    store: str, colors: Path, signals: list[signal.Signals]
) -> None:
    """A run that is told to stop ends KILLED with exit 75, also where a second signal follows."""
    arguments = ["train", "--train-data", str(colors), "--model", NETWORK]
    arguments += ["--epochs", "100000", "--patience", "100000", "--batch-size", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trialrun", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": store},
    )
    assert process.stderr is not None
    try:
        while not process.stderr.readline().startswith("Epoch 2/"):
            assert process.poll() is None
        for each in signals:
            process.send_signal(each)
            time.sleep(0.05)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, error
    assert "Traceback" not in error
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["stop_reason"]) == ("KILLED", "killed")
    assert int(run.data.tags["stopped_epoch"]) >= 2


def test_azure_directories_train(store: str, azure: Path) -> None:
    """The ancestor's own ImageDirectories are trained and validated on."""
    result = trialrun.train(
        train_data=str(azure / "image_directory_train"),
        valid_data=str(azure / "image_directory_valid"),
        **{**QUICK, "epochs": 1},
    )
    params = the_run(store, result.run_id).data.params
    assert (params["num_train_images"], params["num_classes"]) == ("200", "10")
    assert "valid_top5_accuracy" in result.metrics


def test_experiment_is_set_up_for_training(store: str, colors: Path) -> None:
    """MLflow's page shows the experiment as model training, its best metric named."""
    trialrun.train(train_data=str(colors), **QUICK)
    experiment = mlflow.MlflowClient(store).get_experiment_by_name("tests")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert experiment.tags["mlflow.experiment.primaryMetric.name"] == "valid_accuracy"
