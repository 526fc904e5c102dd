"""The table's rows and columns: skipped images, the best classes, embeddings, batch sizes."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save as to_bytes

import trialrun
from tests.conftest import make_network, write_classes
from trialrun.errors import InvalidParameterError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models import directory
from trialrun.models.directory import ModelDescription

CLASSES = ("blue", "green", "red")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Write the model directory of an untrained network."""
    return write_network(tmp_path / "model", "shufflenet_v2_x0_5")


def write_network(folder: Path, name: str) -> str:
    """Write the model directory of an untrained network of three classes."""
    description = ModelDescription(name, {}, CLASSES, Preprocessing(32))
    state = make_network(name).state_dict()
    directory.write_model_directory(folder, description, to_bytes(state))
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write ten labelled images."""
    return write_classes(tmp_path / "data", {"blue": 5, "red": 5})


def score(model: str, data: Path, output: Path, **settings: object) -> pd.DataFrame:
    """Score on the CPU and read the table."""
    trialrun.score(model, str(data), str(output), device="cpu", **settings)  # type: ignore[arg-type]
    return pd.read_csv(output) if output.suffix == ".csv" else pd.read_parquet(output)


def test_skipped_images_are_rows_with_a_reason(model: str, data: Path, tmp_path: Path) -> None:
    """Pipes, links that lead out, and broken links: no label, no probabilities, no hang."""
    os.mkfifo(data / "red" / "pipe.png")
    (data / "red" / "out.png").symlink_to("/dev/zero")
    (data / "red" / "nowhere.png").symlink_to("missing.png")
    (data / "red" / "notes.txt").write_text("not an image")
    table = score(model, data, tmp_path / "scored.csv").set_index("path")
    skipped = table[table["error"].notna()]
    assert len(table) == 13
    assert skipped["error"].to_dict() == {
        "red/nowhere.png": "cannot be read: No such file or directory",
        "red/out.png": "a link that leads out of the folder",
        "red/pipe.png": "not a regular file but a folder, pipe or device",
    }
    assert skipped["category"].isna().all()
    assert skipped["Scored Labels"].isna().all()
    assert skipped["Scored Probabilities_red"].isna().all()
    assert table["id"].tolist() == list(range(13))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_top_k_names_the_best_classes(model: str, data: Path, tmp_path: Path, suffix: str) -> None:
    """The first is the scored label; probabilities decrease; an unread image has none."""
    (data / "red" / "broken.png").write_bytes(b"no picture")
    table = score(model, data, tmp_path / f"scored{suffix}", top_k=2)
    scored, broken = table.iloc[:-1], table.iloc[-1]
    assert scored["Top 1 Label"].tolist() == scored["Scored Labels"].tolist()
    probabilities = scored[[f"Scored Probabilities_{name}" for name in CLASSES]].to_numpy()
    ordered = np.sort(probabilities, axis=1)[:, ::-1]
    assert scored["Top 1 Probability"].tolist() == ordered[:, 0].tolist()
    assert scored["Top 2 Probability"].tolist() == ordered[:, 1].tolist()
    second = [CLASSES[index] for index in np.argsort(-probabilities, axis=1)[:, 1]]
    assert scored["Top 2 Label"].tolist() == second
    assert np.isnan(broken["Top 1 Probability"])
    assert list(table)[-1] == "error"


def test_more_than_the_classes_is_refused(model: str, data: Path, tmp_path: Path) -> None:
    """`top_k` is compared with the model before an image is read."""
    with pytest.raises(InvalidParameterError, match="top_k=4 but the model has 3 classes"):
        score(model, data, tmp_path / "scored.csv", top_k=4)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1"])
def test_embeddings_are_the_inputs_of_the_head(name: str, data: Path, tmp_path: Path) -> None:
    """A linear head maps them to the logits; a convolution's are averaged over the image."""
    (data / "red" / "broken.png").write_bytes(b"no picture")
    model, path = write_network(tmp_path / "net", name), tmp_path / "features.parquet"
    scored = score(model, data, tmp_path / "scored.csv", embeddings=str(path))
    embeddings = pd.read_parquet(path)
    assert embeddings["path"].tolist() == scored["path"].tolist()
    assert embeddings["embedding"].iloc[-1] is None
    features = np.stack(embeddings["embedding"].iloc[:-1].tolist())
    assert features.dtype == np.float32
    classifier = trialrun.load_model(model)
    if name == "squeezenet1_1":
        assert features.shape == (10, 512)
        return
    head = classifier.network.get_submodule("fc")
    with torch.inference_mode():
        expected = head(torch.from_numpy(features)).softmax(dim=1).numpy()
    columns = [f"Scored Probabilities_{label}" for label in CLASSES]
    assert scored[columns].iloc[:-1].to_numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("embeddings", ["features.csv", "scored.parquet"])
def test_unsuitable_embeddings_file_is_refused(
    model: str, data: Path, tmp_path: Path, embeddings: str
) -> None:
    """It must be Parquet, and another file than the table."""
    with pytest.raises(InvalidParameterError, match="embeddings="):
        score(model, data, tmp_path / "scored.parquet", embeddings=str(tmp_path / embeddings))


def test_batch_sizes_give_the_same_probabilities(model: str, data: Path, tmp_path: Path) -> None:
    """Within 1e-6, `auto` included."""
    columns = [f"Scored Probabilities_{label}" for label in CLASSES]
    auto = score(model, data, tmp_path / "auto.csv")[columns].to_numpy()
    for size in (1, 3, 64):
        table = score(model, data, tmp_path / f"{size}.csv", batch_size=size)
        assert table[columns].to_numpy() == pytest.approx(auto, abs=1e-6)
