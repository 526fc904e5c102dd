"""The choice of an engine by the command line: MobileNetV2 with its real weights, on real pictures.

The test downloads 40 MB, so it runs only with `pytest -m corpus`.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import mlflow
import numpy as np
import pytest

from benchmarks.engines import fit_head, list_photos, make_classifier
from tests.conftest import write_image
from tests.system.conftest import skip_unless_ci
from trialrun.cli import run_cli
from trialrun.config.engines import OPENVINO_INT8
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription, write_model_directory
from trialrun.models.weights.serialization import serialize_state
from trialrun.scoring.parity import decode_images

pytestmark = pytest.mark.corpus

MOBILENET = "mobilenet_v2"
TAGS = (
    "engine_images_per_second",
    "engine_speedup",
    "engine_flips",
    "engine_interval",
    "parity_max_difference",
)


def write_pictures(folder: Path, files: Sequence[bytes], labels: Sequence[str]) -> Path:
    """Write pictures in class folders."""
    for number, (data, label) in enumerate(zip(files, labels, strict=True)):
        path = folder / label / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_fitted_model(folder: Path, files: Sequence[bytes], labels: Sequence[str]) -> Path:
    """Write a MobileNetV2 with a last layer that is fitted to pictures."""
    base = make_classifier(MOBILENET, 1000)
    classes = tuple(sorted(set(labels)))
    targets = np.array([classes.index(label) for label in labels])
    fit_head(base, decode_images(base.preprocessing, files), targets)
    classifier = ImageClassifier(base.network, classes, base.preprocessing)
    description = ModelDescription(MOBILENET, {}, classes, base.preprocessing)
    folder.mkdir()
    write_model_directory(folder, description, serialize_state(classifier.network.state_dict()))
    return folder


def test_int8_that_flips_classes_is_refused_and_the_next_engine_taken(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calibrated on black pictures, int8 clips activations. Tags and `score` name the engine."""
    pytest.importorskip("nncf")
    pytest.importorskip("onnxruntime")
    try:
        files, labels = list_photos()
    except (OSError, subprocess.CalledProcessError) as error:
        skip_unless_ci(f"the package registries cannot be used: {error}")
    model = write_fitted_model(tmp_path / "model", files[::2], labels[::2])
    black = tmp_path / "black"
    write_image(black / "0.png", (0, 0, 0), size=224)
    test = write_pictures(tmp_path / "test", files[1::2], labels[1::2])
    assert run_cli(["model", "register", str(model), "pictures"]) == 0
    command = ["export", "models:/pictures/1", "--engine", "auto", "--data", str(black)]
    command += ["--test", str(test), "--margin", "0.03", "--max-class-drop", "0.2"]
    assert run_cli([*command, "--allow-overlap", "--json"]) == 0
    output = capsys.readouterr()
    rows = json.loads(output.out.splitlines()[-1])["engines"]
    problems = {row["engine"]: row["problem"] for row in rows}
    assert "accuracy not-worse: required 98.8% interval above -0.03" in problems[OPENVINO_INT8]
    assert f"{OPENVINO_INT8} " in output.err
    assert problems[OPENVINO_INT8] in output.err
    chosen = next(row["engine"] for row in rows if not row["problem"])
    version = mlflow.MlflowClient(store).get_model_version("pictures", "2")
    assert version.tags["engine"] == chosen
    assert all(version.tags[name] for name in TAGS)
    scored = str(tmp_path / "scored.csv")
    assert run_cli(["score", "models:/pictures/2", str(black), "--output", scored]) == 0
    assert f"Note: the engine {chosen} computes, for which the model is" in capsys.readouterr().err
