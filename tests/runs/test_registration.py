"""Registration of model directories that no run has trained, and pins of their weights."""

import csv
import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import trialrun
from tests.azure_models import save_with_torch, write_azure_model
from tests.conftest import SMALL, make_network, write_classes, write_model
from trialrun.cli import run_cli
from trialrun.config.engines import ONNX_RUNTIME
from trialrun.errors import InvalidModelDirectoryError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.directory import (
    ModelDescription,
    read_model_directory,
    write_model_directory,
)
from trialrun.models.weights.serialization import serialize_state
from trialrun.models.zoo.networks import build_network
from trialrun.runs.registration import convert_model, register_model
from trialrun.serving.package import add_serving_files

CLASSES = ("cat", "dog")
OTHER_SHA256 = "0" * 64


@pytest.fixture
def azure_model(tmp_path: Path) -> Path:
    """A trained model directory of Azure ML designer that started from pretrained weights."""
    folder = tmp_path / "azure"
    torch.manual_seed(0)
    network, output = build_network("resnet18", 1000, image_size=None), torch.nn.Linear(1000, 2)
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {f"out_linear_model.{name}": tensor for name, tensor in output.state_dict().items()}
    write_azure_model(folder, save_with_torch(state))
    return folder


def test_files_of_an_engine_are_registered_with_the_model(tmp_path: Path) -> None:
    """A certified model directory keeps its engine, and its code is written anew."""
    source, target = tmp_path / "source", tmp_path / "target"
    weights = serialize_state(make_network(SMALL, len(CLASSES)).state_dict())
    description = ModelDescription(SMALL, {}, CLASSES, Preprocessing(32), ONNX_RUNTIME)
    for folder in (source, target):
        folder.mkdir()
    write_model_directory(source, description, weights, {"engine.onnx": b"not parsed"})
    add_serving_files(source, description, model_id="", run_id="")
    convert_model(source, target)
    stored = read_model_directory(target)
    assert (stored.description.engine, stored.engine_files["engine.onnx"]) == (
        ONNX_RUNTIME,
        b"not parsed",
    )
    assert not (target / "code").exists()


@pytest.mark.slow
def test_registered_azure_model_scores_as_before(
    store: str, azure_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version loads through MLflow, with the probabilities of Azure's directory."""
    import mlflow

    images = write_classes(tmp_path / "images", {"cat": 3, "dog": 3}, size=48)
    assert run_cli(["model", "register", str(azure_model), "pets", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["model_name"], result["model_version"]) == ("pets", "1")
    assert result["max_difference"] <= 1e-5
    for model, name in ((str(azure_model), "before"), ("models:/pets/1", "after")):
        trialrun.score(model, str(images), str(tmp_path / f"{name}.csv"))
    before, after = (
        pd.read_csv(tmp_path / f"{name}.csv").filter(like="Probabilities").to_numpy()
        for name in ("before", "after")
    )
    assert before == pytest.approx(after, abs=1e-5)
    frame = pd.DataFrame({"image": [(images / "cat" / "000.png").read_bytes()]})
    served = mlflow.pyfunc.load_model("models:/pets/1").predict(frame)
    assert served.iloc[0, 0] == pytest.approx(before[0, 0], abs=1e-5)
    client = mlflow.MlflowClient(store)
    assert "2: cat, dog" in str(client.get_model_version("pets", "1").description)
    run = client.get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["weights_sha256"] == result["weights_sha256"]


@pytest.mark.slow
def test_azure_model_registers_and_scores_as_azure_did(
    azure: Path, store: str, tmp_path: Path
) -> None:
    """Every probability of the registered version equals Azure ML designer's within 1e-5."""
    result = register_model(str(azure / "model_directory"), "azure")
    output = tmp_path / "scored.csv"
    model = f"models:/azure/{result.model_version}"
    trialrun.score(model, str(azure / "image_directory_valid"), str(output))
    with (azure / "scored_valid.csv").open(newline="") as file:
        golden = list(csv.DictReader(file))
    with output.open(newline="") as file:
        scored = list(csv.DictReader(file))
    columns = [name for name in golden[0] if name.startswith("Scored Probabilities")]
    assert len(scored) == len(golden) > 0
    for expected, row in zip(golden, scored, strict=True):
        assert row["id"] == expected["id"]
        for name in columns:
            assert float(row[name]) == pytest.approx(float(expected[name]), abs=1e-5)


def test_untrained_directory_is_not_registered(store: str, tmp_path: Path) -> None:
    """Nothing is registered, and no run is left behind."""
    import mlflow

    assert run_cli(["model", "init", SMALL, str(tmp_path / "untrained")]) == 0
    with pytest.raises(InvalidModelDirectoryError, match="is not trained"):
        register_model(str(tmp_path / "untrained"), "nothing")
    client = mlflow.MlflowClient(store)
    assert list(client.search_registered_models()) == []
    experiment_ids = [found.experiment_id for found in client.search_experiments()]
    assert client.search_runs(experiment_ids) == []


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A trained model directory of trialrun."""
    folder = tmp_path / "trained"
    folder.mkdir()
    write_model(folder, SMALL, CLASSES, Preprocessing(32))
    return folder


def test_model_with_other_weights_than_pinned_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--sha256 takes what sha256sum prints, in any case; others exit with 4 and write nothing."""
    images = write_classes(tmp_path / "images", {"cat": 2, "dog": 2})
    sha256 = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    output = tmp_path / "scored.csv"
    command = ["score", str(trained), str(images), "--output", str(output), "--sha256"]
    assert run_cli([*command, OTHER_SHA256]) == 4
    message = capsys.readouterr().err
    assert sha256 in message
    assert OTHER_SHA256 in message
    assert not output.exists()
    assert run_cli([*command, sha256.upper()]) == 0


def test_version_whose_weights_were_exchanged_is_refused(store: str, trained: Path) -> None:
    """The version's tag pins the weights: an exchanged model with a valid manifest is noticed."""
    import mlflow

    result = register_model(str(trained), "pets")
    client = mlflow.MlflowClient(store)
    assert trialrun.load_model("models:/pets/1").classes == CLASSES
    client.set_model_version_tag("pets", "1", "weights_sha256", OTHER_SHA256)
    with pytest.raises(InvalidModelDirectoryError, match=f"weights_sha256={OTHER_SHA256}"):
        trialrun.load_model("models:/pets/1")
    assert trialrun.load_model(result.model_uri).classes == CLASSES
