"""What training makes of the pixels: fit, value range, whole images for crops, and notes."""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from PIL import Image

import trialrun
from tests.conftest import SMALL
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.datasets.check import check_datasets
from trialrun.runs.training.inputs.data import PreparedData, prepare_data
from trialrun.runs.training.plan import plan_training


class NoteCallback(NoOpCallback):
    """Collects notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)


def prepare(data: Path, **settings: Any) -> tuple[PreparedData, list[str]]:
    """Prepare the images of a training and return them with the notes."""
    callback = NoteCallback()
    plan = plan_training({"train_data": str(data), "model": SMALL, "batch_size": 2} | settings)
    return prepare_data(plan, callback), callback.notes


@pytest.fixture
def markers(tmp_path: Path) -> Path:
    """Write wide images whose class is a marker at the left or at the right edge."""
    for number in range(24):
        name = ("left", "right")[number % 2]
        noise = np.random.default_rng(number).integers(0, 60, (64, 192, 3), dtype=np.uint8)
        columns = slice(0, 24) if name == "left" else slice(168, 192)
        noise[:, columns] += 190
        path = tmp_path / "markers" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
    return tmp_path / "markers"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Write 16-bit images that use 12 bits."""
    for number in range(12):
        values = np.random.default_rng(number).integers(0, 4096, (32, 32)).astype(np.uint16)
        values[0, :2] = 0, 4095
        path = tmp_path / "scans" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    return tmp_path / "scans"


def measure_brightness(prepared: PreparedData) -> float:
    """Return how much brighter the left edge of validation images is in one of two classes."""
    dataset = prepared.valid.dataset
    batch = dataset.load_batch(np.arange(len(dataset)), len(dataset))
    edge = batch.pixels[:, :, 28:36, :4].float().mean(dim=(1, 2, 3))
    return abs(float(edge[batch.labels == 0].mean() - edge[batch.labels == 1].mean()))


def test_fit_decides_whether_the_sides_are_seen(markers: Path) -> None:
    """The crop loses the markers, and a note says so; squash and pad keep them."""
    cropped, notes = prepare(markers)
    assert measure_brightness(cropped) < 10
    (only_note,) = (note for note in notes if "fit=crop cuts off 67%" in note)
    assert "fit=squash and fit=pad" in only_note
    for fit in ("squash", "pad"):
        kept, notes = prepare(markers, fit=fit)
        assert kept.preprocessing.fit == fit
        assert measure_brightness(kept) > 100
        assert not [note for note in notes if "cuts off" in note]


def test_data_check_notes_the_crop_and_the_value_range(markers: Path, scans: Path) -> None:
    """The notes of a set name what would be lost."""
    wide, narrow = (check_datasets(str(data)).to_json()["sets"][0] for data in (markers, scans))
    assert [note for note in wide["notes"] if "fit=crop cuts off 67%" in note]
    assert [note for note in narrow["notes"] if "value_range=0:4095" in note]


def test_value_range_is_noted_measured_and_given(scans: Path) -> None:
    """Without the setting a note gives the range; auto measures it on the training images."""
    plain, notes = prepare(scans)
    assert plain.preprocessing.value_range is None
    assert [note for note in notes if "value_range=auto or value_range=0:4095" in note]
    for text in ("auto", "0:4095"):
        scaled, notes = prepare(scans, value_range=text)
        assert scaled.preprocessing.value_range == (0, 4095)
        assert not [note for note in notes if "value_range" in note]
        pixels = scaled.train.dataset.load_batch(np.arange(4), 4).pixels
        assert len(pixels.unique()) > 200


def test_value_range_auto_without_deep_images_is_noted(markers: Path) -> None:
    """There is nothing to measure."""
    prepared, notes = prepare(markers, value_range="auto")
    assert prepared.preprocessing.value_range is None
    assert [note for note in notes if "no training image has more than 8 bits" in note]


def test_augmented_images_are_stored_whole(markers: Path) -> None:
    """Random crops get whole images and their aspect ratios; validation gets the crop."""
    prepared, _ = prepare(markers, augment="standard", image_size=64)
    dataset = prepared.train.dataset
    assert dataset.aspects is not None
    assert set(dataset.aspects) == {3.0}
    batch = dataset.load_batch(np.arange(2), 2)
    assert batch.pixels.shape[2:] == (97, 97)  # 8/7 for the margin, 4/3 for 16:9 and more
    assert max(batch.pixels[:, :, 48, :8].max(), batch.pixels[:, :, 48, -8:].max()) > 180
    assert prepared.valid.dataset.aspects is None
    squashed, _ = prepare(markers, augment="standard", fit="squash")
    assert squashed.train.dataset.aspects is None


def test_augment_follows_fixed_transforms(markers: Path, tmp_path: Path) -> None:
    """Crops are from the images that the transforms make."""
    path = tmp_path / "steps.json"
    path.write_text('[["Pad", [0, 64]], ["Resize", 64]]')
    prepared, _ = prepare(markers, augment="standard", transforms=str(path))
    assert prepared.preprocessing.image_size == 64
    assert prepared.train.dataset.aspects is not None
    assert set(prepared.train.dataset.aspects) == {1.0}


def test_fit_and_range_are_recorded_and_served(store: str, scans: Path) -> None:
    """Parameters, model.json, scoring and the served model have the same values."""
    result = trialrun.train(
        train_data=str(scans),
        model=SMALL,
        epochs=1,
        batch_size=4,
        learning_rate=1e-5,  # batch norm over four images is unstable
        fit="pad",
        value_range="auto",
    )
    params = mlflow.MlflowClient(store).get_run(result.run_id).data.params
    assert (params["fit"], params["value_range"]) == ("pad", "auto")
    assert (params["resolved_fit"], params["resolved_value_range"]) == ("pad", "0:4095")
    assert result.model_uri is not None
    folder = Path(mlflow.artifacts.download_artifacts(result.model_uri))
    recorded = json.loads((folder / "model.json").read_text())["preprocessing"]
    assert (recorded["fit"], recorded["value_range"]) == ("pad", [0, 4095])
    data = (scans / "a" / "0.png").read_bytes()
    model = trialrun.load_model(result.model_uri)
    expected = model(trialrun.preprocess(data, model)).softmax(dim=1)[0].tolist()
    served = mlflow.pyfunc.load_model(result.model_uri).predict({"image": [data]})
    probabilities = [float(served[f"Scored Probabilities_{name}"][0]) for name in "ab"]
    assert probabilities == pytest.approx(expected, abs=1e-5)
