"""Exported files and certified engines of a small network, on a real store."""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

import trialrun
from tests.conftest import make_network, write_classes
from trialrun.cli import run_cli
from trialrun.config import build_config
from trialrun.config.engines import ONNX_RUNTIME, OPENVINO_INT8, TORCH_BF16
from trialrun.config.export import ExportConfig
from trialrun.errors import (
    InvalidModelDirectoryError,
    InvalidParameterError,
    PromotionRefusedError,
)
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription, write_model_directory
from trialrun.models.weights.serialization import serialize_state
from trialrun.runs.export.certify import certify_engine
from trialrun.runs.export.files import export_model
from trialrun.scoring.network import TorchNetwork
from trialrun.scoring.parity import choose_parity_images

CPU = torch.device("cpu")
CLASSES = ("blue", "green", "red")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory with random weights, whose outputs are far from uniform."""
    network = make_network()
    with torch.no_grad():
        network.get_parameter("fc.weight").mul_(40)
    folder = tmp_path / "model"
    folder.mkdir()
    description = ModelDescription("shufflenet_v2_x0_5", {}, CLASSES, Preprocessing(32))
    write_model_directory(folder, description, serialize_state(network.state_dict()))
    return folder


def compute_expected(classifier: ImageClassifier, files: list[bytes]) -> "tuple[Any, Any]":
    """Return the pixels of files, and torch's probabilities."""
    pixels = torch.stack([classifier.preprocessing.decode(data) for data in files])
    return pixels.numpy(), TorchNetwork(classifier, CPU).compute_probabilities(pixels).numpy()


def test_onnx_file_computes_our_probabilities_without_trialrun(model: Path, tmp_path: Path) -> None:
    """Plain onnxruntime scores uint8 pixels in batches of any size; the metadata has the rest."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "out.onnx"
    result = export_model(str(model), str(path), build_config(ExportConfig, {}))
    assert result.parity_max_difference < 1e-5
    classifier = trialrun.load_model(str(model))
    pixels, expected = compute_expected(classifier, choose_parity_images([]))
    session = onnxruntime.InferenceSession(str(path))
    for size in (1, 3, 32):
        (found,) = session.run(None, {"pixels": pixels[:size]})
        np.testing.assert_allclose(found, expected[:size], atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(metadata["classes"])) == CLASSES
    assert json.loads(metadata["preprocessing"])["image_size"] == 32


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_azures_model_is_exported(azure: Path, tmp_path: Path, suffix: str) -> None:
    """Its network takes images at their own size; the file does too."""
    path = tmp_path / f"out.{suffix}"
    result = export_model(str(azure / "model_directory"), str(path), build_config(ExportConfig, {}))
    assert result.parity_max_difference < 1e-5
    assert result.num_parity_images >= 32
    assert path.is_file()


@pytest.mark.slow
def test_pt2_file_computes_our_probabilities(model: Path, tmp_path: Path) -> None:
    """torch.export's file takes batches of any size."""
    path = tmp_path / "out.pt2"
    export_model(str(model), str(path), build_config(ExportConfig, {}))
    pixels, expected = compute_expected(trialrun.load_model(str(model)), choose_parity_images([]))
    program = torch.export.load(path).module()
    for size in (1, 5):
        found = program(torch.from_numpy(pixels[:size])).detach().numpy()
        np.testing.assert_allclose(found, expected[:size], atol=1e-5)


def test_unequal_file_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that computes other probabilities exits with 4 and leaves nothing."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(  # a fault: the normalisation is missing
        "trialrun.scoring.engines.export.ProbabilityNetwork.forward",
        lambda self, pixels: self.network(pixels.to(torch.float32)).softmax(dim=1),
    )
    path = tmp_path / "out.onnx"
    with pytest.raises(InvalidModelDirectoryError, match="not equal"):
        export_model(str(model), str(path), build_config(ExportConfig, {}))
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.slow
def test_certified_engine_becomes_a_version_that_scores_with_it(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """The version names its engine, its files are in the manifest, and scoring says so."""
    pytest.importorskip("onnxruntime")
    quick: dict[str, Any] = {
        "model": "shufflenet_v2_x0_5",
        "epochs": 6,
        "batch_size": 8,
        "learning_rate": 0.05,
    }
    trialrun.train(train_data=str(colors), register_as="colors", **quick)
    overlapping = build_config(ExportConfig, {"engine": ONNX_RUNTIME, "test": str(colors)})
    with pytest.raises(PromotionRefusedError) as raised:
        certify_engine("models:/colors/1", overlapping)
    assert "test images that models:/colors/1 was trained on: 30; " in str(raised.value)
    assert "test images that chose the epoch or trial of models:/colors/1: 6" in str(raised.value)

    test = write_classes(tmp_path / "test", {"blue": 40, "green": 40, "red": 40}, seed=100)
    settings = {"engine": ONNX_RUNTIME, "test": str(test), "margin": 0.1, "max_log_loss_rise": 1}
    result = certify_engine("models:/colors/1", build_config(ExportConfig, settings))
    result.raise_if_refused()
    assert (result.chosen, result.model_name, result.model_version) == (ONNX_RUNTIME, "colors", "2")

    version = mlflow.MlflowClient(store).get_model_version("colors", "2")
    assert version.tags["engine"] == ONNX_RUNTIME
    assert version.tags["engine_flips"] == "0"
    assert version.tags["engine_source"] == "models:/colors/1"
    assert float(version.tags["engine_speedup"]) > 1

    scored = trialrun.score("models:/colors/2", str(test), str(tmp_path / "scored.csv"))
    assert any("the engine onnxruntime computes" in note for note in scored.notes)
    served = mlflow.pyfunc.load_model("models:/colors/2")
    data = next(test.rglob("*.png")).read_bytes()
    original = mlflow.pyfunc.load_model("models:/colors/1").predict({"image": [data]})
    np.testing.assert_allclose(
        served.predict({"image": [data]}).iloc[0, :3].to_numpy(dtype=float),
        original.iloc[0, :3].to_numpy(dtype=float),
        atol=1e-5,
    )


@pytest.mark.usefixtures("store")
def test_test_images_that_were_used_before_certify_nothing(
    model: Path, colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images that calibrate int8 are refused, as is a model without a record of its images."""
    command = ["export", str(model), "--engine", OPENVINO_INT8, "--register", "colors"]
    assert run_cli([*command, "--data", str(colors), "--test", str(colors)]) == 5
    error = capsys.readouterr().err
    assert f"test images that {model} was trained on: no record of its data; " in error
    assert "test images that calibrate int8: 36\n" in error
    assert "--allow-overlap" in error


def test_changed_engine_file_is_refused(model: Path) -> None:
    """An engine's file with one flipped bit is an error before it is parsed."""
    content = bytearray(b"not parsed")
    weights = (model / "model.safetensors").read_bytes()
    description = ModelDescription(
        "shufflenet_v2_x0_5", {}, CLASSES, Preprocessing(32), ONNX_RUNTIME
    )
    write_model_directory(model, description, weights, {"engine.onnx": bytes(content)})
    content[0] ^= 1
    (model / "engine.onnx").write_bytes(bytes(content))
    with pytest.raises(InvalidModelDirectoryError, match="checksum mismatch"):
        trialrun.load_model(str(model))


def test_engine_file_of_another_engine_is_refused(model: Path) -> None:
    """A model directory holds the files of the engine that it names and no others."""
    weights = (model / "model.safetensors").read_bytes()
    description = ModelDescription("shufflenet_v2_x0_5", {}, CLASSES, Preprocessing(32), TORCH_BF16)
    write_model_directory(model, description, weights, {"engine.onnx": b""})
    with pytest.raises(InvalidModelDirectoryError, match="belongs to another engine"):
        trialrun.load_model(str(model))


def test_export_needs_a_file_or_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither and both are errors of parameters."""
    assert run_cli(["export", "model"]) == InvalidParameterError.exit_code
    assert run_cli(["export", "model", "a.onnx", "--engine", "auto"]) == 2
    assert run_cli(["export", "model", "a.tflite"]) == 2
    assert "no format" in capsys.readouterr().err
