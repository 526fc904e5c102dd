"""Training runs on a real store: the recorded data, and the status at the end."""

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from markdown_it import MarkdownIt
from mlflow.entities import Run

import trialrun
from tests.conftest import write_classes
from tests.processes import ForkedProgram
from tests.tuning.conftest import nested_runs
from tests.tuning.conftest import settings as short_search
from trialrun.errors import InvalidDatasetError, TrackingError
from trialrun.registry import LoggedModel, register_once

NETWORK = "shufflenet_v2_x0_5"
QUICK: dict[str, Any] = {"model": NETWORK, "epochs": 2, "batch_size": 8, "learning_rate": 0.005}


def read_run(store: str, run_id: str) -> Run:
    """Return a run."""
    return mlflow.MlflowClient(store).get_run(run_id)


def dataset_digests(store: str, run_id: str) -> list[str]:
    """Return the digests of the inputs of a run."""
    inputs = read_run(store, run_id).inputs
    assert inputs is not None
    return [item.dataset.digest for item in inputs.dataset_inputs]


def read_text_artifact(run_id: str, name: str) -> str:
    """Return a text artifact of a run."""
    return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{name}"))


def test_run_records_settings_and_resolved_values(store: str, colors: Path) -> None:
    """Each setting is a parameter of the same name, beside the resolved values."""
    result = trialrun.train(train_data=str(colors), random_seed=-5, **QUICK)
    params = read_run(store, result.run_id).data.params
    assert (params["epochs"], params["random_seed"], params["valid_data"]) == ("2", "-5", "none")
    assert (params["resolved_image_size"], params["num_classes"]) == ("32", "3")
    assert params["resolved_precision"] in ("fp32", "bf16")  # as the processor has it
    assert params["resolved_layout"] == "NHWC"
    assert (params["num_train_images"], params["num_valid_images"]) == ("30", "6")


def test_each_metric_has_one_value_per_epoch(store: str, colors: Path) -> None:
    """Steps start at 1; linking the best epoch to the model adds no second value."""
    result = trialrun.train(train_data=str(colors), **QUICK)
    client = mlflow.MlflowClient(store)
    for name in (
        "train_loss",
        "train_accuracy",
        "valid_loss",
        "valid_accuracy",
        "learning_rate",
        "epochs_without_improvement",
        "images_read",
        "train_images_per_second",
        "valid_images_per_second",
        "data_wait_fraction",
        "epoch_seconds",
    ):
        history = client.get_metric_history(result.run_id, name)
        assert [metric.step for metric in history] == [1, 2], name
    assert "valid_top5_accuracy" not in read_run(store, result.run_id).data.metrics


def read_summary(store: str, run_id: str) -> dict[str, float]:
    """Return the metrics of a run that have one value, without an epoch."""
    client = mlflow.MlflowClient(store)
    histories = [
        client.get_metric_history(run_id, name)
        for name in read_run(store, run_id).data.metrics
        if name.startswith(("best_", "training_"))
    ]
    assert all(len(history) == 1 and history[0].step == 0 for history in histories)
    return {history[0].key: history[0].value for history in histories}


def test_best_epoch_is_recorded_as_metrics_of_the_run(store: str, colors: Path) -> None:
    """Tables of MLflow show the last value of a metric; these have one value, the best epoch's."""
    settings = {**QUICK, "epochs": 30, "patience": 1, "schedule": "constant"}
    result = trialrun.train(train_data=str(colors), **settings)
    summary = read_summary(store, result.run_id)
    assert result.best_epoch < result.stopped_epoch
    assert summary.pop("training_seconds") > 0
    assert summary == {
        "best_epoch": result.best_epoch,
        "best_valid_loss": result.best_valid_loss,
        "best_valid_accuracy": result.metrics["valid_accuracy"],
    }


def test_run_without_an_epoch_has_no_best_metrics(store: str, colors: Path) -> None:
    """Only what exists is logged: the time, but no best epoch."""
    with pytest.raises(trialrun.errors.TrialrunError, match="became NaN"):
        trialrun.train(train_data=str(colors), **{**QUICK, "learning_rate": 1e30})
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert read_summary(store, run.info.run_id).keys() == {"training_seconds"}


@pytest.mark.slow
def test_trials_record_the_metrics_of_their_best_epoch(store: str, colors: Path) -> None:
    """The trials of a search have them as well."""
    search = trialrun.search(**short_search(colors, trials=1))
    (trial,) = nested_runs(store, search.run_id)
    best = read_summary(store, trial.info.run_id)
    assert best["best_valid_loss"] == search.best_valid_loss


@pytest.mark.slow
def test_model_card_shows_any_class_name(store: str, tmp_path: Path) -> None:
    """A bar or a line break in a name does not add a cell or a row."""
    names = {"a|b": 4, "line\nbreak": 4, "_plain_": 4}
    data = write_classes(tmp_path / "d", names)
    result = trialrun.train(train_data=str(data), **{**QUICK, "epochs": 1})
    card = read_run(store, result.run_id).data.tags["mlflow.note.content"]
    html = MarkdownIt().enable("table").render(card)
    assert "<td>3: _plain_, a|b, line\\nbreak</td>" in html
    assert "<td>a|b</td>" in html or "<td>line\\nbreak</td>" in html or "<td>_plain_</td>" in html


def test_system_metrics_are_recorded(store: str, colors: Path) -> None:
    """The run contains MLflow's system metrics."""
    result = trialrun.train(train_data=str(colors), **QUICK)
    metrics = read_run(store, result.run_id).data.metrics
    assert any(name.startswith("system/") for name in metrics)


@pytest.mark.slow
def test_datasets_have_digests_of_their_content(store: str, colors: Path) -> None:
    """Equal images have equal digests, one changed file another; both sets are inputs."""
    first = trialrun.train(train_data=str(colors), **QUICK)
    second = trialrun.train(train_data=str(colors), **QUICK)
    digests = dataset_digests(store, first.run_id)
    assert digests == dataset_digests(store, second.run_id)
    assert len(set(digests)) == 2
    (colors / "red" / "000.png").write_bytes((colors / "red" / "001.png").read_bytes())
    third = trialrun.train(train_data=str(colors), **QUICK)
    assert dataset_digests(store, third.run_id) != digests


def test_model_is_linked_to_run_metrics_and_registered(store: str, colors: Path) -> None:
    """The LoggedModel has the metrics of its best epoch; the version has tags to search by."""
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
    assert version.tags.keys() == {
        "valid_accuracy",
        "valid_loss",
        "train_digest",
        "valid_digest",
        "weights_sha256",
        "best_epoch",
        "stop_reason",
        "parity_max_difference",
    }


def test_model_card_describes_the_run_and_the_version(store: str, colors: Path) -> None:
    """It is a file beside the model, too; a description by a person is kept."""
    result = trialrun.train(train_data=str(colors), register_as="colors", **QUICK)
    client = mlflow.MlflowClient(store)
    card = client.get_run(result.run_id).data.tags["mlflow.note.content"]
    for address in (f"runs:/{result.run_id}", "models:/colors/1"):
        assert mlflow.artifacts.load_text(f"{address}/MODEL_CARD.md") == card
    version = client.get_model_version("colors", "1")
    assert "trialrun score models:/colors/1 IMAGES" in str(version.description)
    assert version.description == card.replace(f"runs:/{result.run_id}/model", "models:/colors/1")
    client.update_model_version("colors", "1", "Mine.")
    assert result.model_uri is not None
    model = LoggedModel(result.model_uri.removeprefix("models:/"))
    again = register_once(client, model, name="colors", run_id=result.run_id, tags={}, card=card)
    assert again == "1"
    assert client.get_model_version("colors", "1").description == "Mine."


@pytest.mark.parametrize("uri", ["models:/colors/1", "runs:/{run_id}/model"])
def test_model_is_loaded_by_registry_or_run_uri(store: str, colors: Path, uri: str) -> None:
    """Both URIs load the same model."""
    result = trialrun.train(train_data=str(colors), register_as="colors", **QUICK)
    classifier = trialrun.load_model(uri.format(run_id=result.run_id))
    assert classifier.classes == ("blue", "green", "red")
    assert not classifier.training


@pytest.mark.slow
def test_early_stop_keeps_and_registers_the_best_epoch(store: str, colors: Path) -> None:
    """If a learning rate diverges, the run stops, and the best epoch's weights are kept."""
    result = trialrun.train(
        train_data=str(colors),
        register_as="colors",
        schedule="constant",
        **{**QUICK, "epochs": 30, "patience": 1, "learning_rate": 0.05},
    )
    assert result.stop_reason == "early_stop"
    assert result.best_epoch < result.stopped_epoch
    run = read_run(store, result.run_id)
    assert run.data.tags["stop_reason"] == "early_stop"
    assert run.data.tags["best_epoch"] == str(result.best_epoch)
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/colors/1"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["model.safetensors"]["sha256"] == result.weights_sha256
    # A run that ends with its best epoch, in all else the same, has the same weights.
    shorter = trialrun.train(
        train_data=str(colors),
        schedule="constant",
        **{**QUICK, "epochs": result.best_epoch, "patience": 30, "learning_rate": 0.05},
    )
    assert shorter.weights_sha256 == result.weights_sha256


def test_events_record_epochs_and_the_stop_reason(store: str, colors: Path) -> None:
    """events.jsonl has one line per epoch and ends with the stop reason."""
    result = trialrun.train(train_data=str(colors), **QUICK)
    events = [
        json.loads(line) for line in read_text_artifact(result.run_id, "events.jsonl").splitlines()
    ]
    assert [event.get("epoch") for event in events] == [1, 2, None]
    last = events[-1]
    assert (last["event"], last["stop_reason"]) == ("stopped", "completed")
    assert last["weights_sha256"] == result.weights_sha256


def test_bad_image_is_skipped_and_listed(store: str, tmp_path: Path) -> None:
    """One unreadable image among many is a row of skipped.csv and of the manifest."""
    data = write_classes(tmp_path / "d", {"a": 15, "b": 15})
    (data / "a" / "broken, one.png").write_bytes(b"no picture")
    valid = write_classes(tmp_path / "v", {"a": 3, "b": 3}, seed=50)
    result = trialrun.train(train_data=str(data), valid_data=str(valid), **QUICK)
    rows = list(csv.DictReader(io.StringIO(read_text_artifact(result.run_id, "skipped.csv"))))
    assert [row["name"] for row in rows] == ["a/broken, one.png"]
    manifest = read_text_artifact(result.run_id, "manifest.jsonl").splitlines()
    assert len(manifest) == 37
    with pytest.raises(InvalidDatasetError, match="1 of 31"):
        trialrun.train(train_data=str(data), valid_data=str(valid), strict=True, **QUICK)


def test_mostly_unreadable_data_is_an_error(store: str, tmp_path: Path) -> None:
    """More than a tenth of unreadable images raises; the run is FAILED and has the reason."""
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


def test_model_without_a_finite_loss_is_not_registered(store: str, colors: Path) -> None:
    """Only validation checks the last step: no finite validation loss means no version."""
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
    """The run is FAILED with a stop reason, and has no model."""
    with pytest.raises(trialrun.errors.TrialrunError, match="became NaN or infinite"):
        trialrun.train(
            train_data=str(colors), register_as="colors", **{**QUICK, "learning_rate": 1e30}
        )
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["stop_reason"]) == ("FAILED", "non_finite_loss")
    assert client.search_registered_models() == []


def test_unreachable_server_is_a_tracking_error(
    monkeypatch: pytest.MonkeyPatch, colors: Path
) -> None:
    """The hint names MLFLOW_TRACKING_URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError) as raised:
        trialrun.train(train_data=str(colors), **QUICK)
    assert "MLFLOW_TRACKING_URI" in raised.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_signal_ends_the_run_as_killed(
    store: str, colors: Path, signals: list[signal.Signals]
) -> None:
    """The run is KILLED and the exit code is 75, also if a second signal follows."""
    arguments = ["train", "--train-data", str(colors), "--model", NETWORK]
    arguments += ["--epochs", "100000", "--patience", "100000", "--batch-size", "8"]
    command = [sys.executable, "-m", "trialrun", *arguments]
    process = ForkedProgram(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        while not process.stderr.readline().startswith("Epoch 2/"):
            assert process.poll() is None
        for number in signals:
            process.send_signal(number)
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


def test_azure_directories_are_trained_on(store: str, azure: Path) -> None:
    """ImageDirectories written by Azure ML designer are valid training and validation data."""
    result = trialrun.train(
        train_data=str(azure / "image_directory_train"),
        valid_data=str(azure / "image_directory_valid"),
        **{**QUICK, "epochs": 1},
    )
    params = read_run(store, result.run_id).data.params
    assert (params["num_train_images"], params["num_classes"]) == ("200", "10")
    assert "valid_top5_accuracy" in result.metrics


def test_experiment_is_set_up_for_training(store: str, colors: Path) -> None:
    """MLflow shows the experiment as model training, with its primary metric."""
    trialrun.train(train_data=str(colors), **QUICK)
    experiment = mlflow.MlflowClient(store).get_experiment_by_name("tests")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert experiment.tags["mlflow.experiment.primaryMetric.name"] == "valid_accuracy"
