"""The setting `weights`: what `auto` is resolved to, and what is recorded and repeated."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.models import get_model_weights

import trialrun
from tests.conftest import (
    SMALL,
    make_network,
    write_classes,
    write_image,
    write_model,
    write_weights,
)
from trialrun.distributed import SINGLE_PROCESS
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.files import hash_file
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.mlflow_client import connect_client
from trialrun.models.open import create_network
from trialrun.models.weights.published import find_default_file
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.inspection.reproduce import reproduce_run
from trialrun.runs.inspection.run_reader import read_run
from trialrun.runs.training.fine_tuning import collect_fine_tuning_params
from trialrun.runs.training.inputs.data import PreparedData, prepare_data
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.session import resolve_rank_compute, start_session

TINY: dict[str, Any] = {"model": SMALL, "epochs": 1, "batch_size": 4, "precision": "fp32"}


class Notes(NoOpCallback):
    """Collects the notes of a run."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_note(self, text: str) -> None:
        """Append the note."""
        self.texts.append(text)


def prepare(data: Path, **settings: object) -> tuple[PreparedData, str]:
    """Prepare the images of a training; return them, and all notes."""
    notes = Notes()
    values = {"train_data": str(data), "model": SMALL, "batch_size": 2, **settings}
    return prepare_data(plan_training(values), notes), " ".join(notes.texts)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of six images of 100 by 100 pixels."""
    return write_classes(tmp_path / "photos", {"cat": 6, "dog": 6}, size=100)


def test_auto_takes_published_weights_with_their_preprocessing(photos: Path, hub: Path) -> None:
    """From 96 pixels on, weights in torch's cache are used, with their crop; smaller images not."""
    write_weights(hub, SMALL)
    data, notes = prepare(photos)
    assert (data.weights.name, notes) == ("default", "")
    assert (data.preprocessing.image_size, data.preprocessing.crop_fraction) == (128, 224 / 256)
    for smaller in ({"image_size": 95}, {"weights": "none"}):
        assert prepare(photos, **smaller)[0].weights.are_random
    assert prepare(photos, image_size=95)[0].preprocessing.crop_fraction == 1


def test_last_layer_that_is_a_convolution_starts_from_random_weights(
    photos: Path, hub: Path
) -> None:
    """SqueezeNet's cannot be fitted by a logistic regression: a note says so, as does the run."""
    write_weights(hub, "squeezenet1_1")
    plan = plan_training({"train_data": str(photos), "model": "squeezenet1_1", "batch_size": 2})
    notes: list[str] = []
    data = prepare_data(plan, NoOpCallback())
    session = start_session(plan, data, resolve_rank_compute(plan), SINGLE_PROCESS, notes.append)
    assert collect_fine_tuning_params(session.plan.config)["resolved_head_start"] == "random"
    assert notes == ["the last layer of squeezenet1_1 is not linear: it starts from random weights"]


@pytest.mark.usefixtures("hub")
def test_auto_without_a_network_warns_and_starts_from_random_weights(
    photos: Path, tmp_path: Path
) -> None:
    """The note names the file and its place. Digits and model directories need no weights."""
    data, notes = prepare(photos)
    assert data.weights.are_random
    assert find_default_file(SMALL).name in notes
    assert "random weights" in notes
    assert prepare(write_classes(tmp_path / "small", {"a": 6, "b": 6}))[1] == ""
    write_model(tmp_path / "own", SMALL, ("cat", "dog"), Preprocessing(100))
    own, notes = prepare(photos, model=tmp_path / "own")
    assert (own.weights.source, own.weights.name, notes) == (None, str(tmp_path / "own"), "")


@pytest.mark.usefixtures("hub")
def test_auto_keeps_an_image_size_that_the_weights_do_not_take(photos: Path) -> None:
    """A vision transformer for another image size starts from random weights, and says why."""
    data, notes = prepare(photos, model="vit_b_32", image_size=96)
    assert data.weights.are_random
    assert "takes images of 224 pixels" in notes or "take images of 224 pixels" in notes


@pytest.mark.usefixtures("hub")
def test_default_without_a_network_names_the_file_and_the_remedies(
    store: str, photos: Path
) -> None:
    """The error names the file, where to copy it, and weights=none."""
    with pytest.raises(InvalidParameterError) as raised:
        trialrun.train(train_data=str(photos), weights="default", **TINY)
    assert find_default_file(SMALL).name in str(raised.value)
    assert str(find_default_file(SMALL)) in raised.value.hint
    assert "weights=none" in raised.value.hint


@pytest.mark.slow
def test_run_records_its_weights_and_a_repetition_insists_on_them(
    store: str, photos: Path, hub: Path
) -> None:
    """Random weights stay random; a changed file of weights and a missing one are refused."""
    client = connect_client()
    without = trialrun.train(train_data=str(photos), **TINY)
    assert read_run(client, without.run_id).params["resolved_weights"] == "random"
    write_weights(hub, SMALL)
    path = find_default_file(SMALL)
    assert reproduce_run(without.run_id).verdict == "identical"
    run = trialrun.train(train_data=str(photos), **TINY)
    params = read_run(client, run.run_id).params
    assert (params["weights"], params["resolved_weights"]) == ("auto", "default")
    assert params["weights_file_sha256"] == hash_file(path)
    assert params["resolved_head_start"] == "probe"
    assert reproduce_run(run.run_id).verdict == "identical"
    write_weights(hub, SMALL, seed=8)
    with pytest.raises(InvalidModelDirectoryError, match="contains other weights"):
        reproduce_run(run.run_id)
    path.unlink()
    with pytest.raises(InvalidParameterError, match=path.name):
        reproduce_run(run.run_id)


@pytest.mark.slow
def test_learning_rate_auto_is_recorded_with_its_curve(store: str, colors: Path) -> None:
    """The rate that was found is a parameter, and the curve is a figure and a table."""
    run = trialrun.train(train_data=str(colors), **{**TINY, "learning_rate": "auto"})
    client = connect_client()
    params = read_run(client, run.run_id).params
    assert params["learning_rate"] == "auto"
    assert 1e-6 < float(params["resolved_learning_rate"]) < 1
    names = {item.path for item in client.list_artifacts(run.run_id)}
    assert {"learning_rate_range.csv", "learning_rate_range.png"} <= names


def test_file_with_another_last_layer_is_reported(tmp_path: Path) -> None:
    """The note has both numbers of classes; a file of the same classes is loaded as it is."""
    torch.save(make_network(num_classes=5).state_dict(), tmp_path / "w.pt")
    for num_classes, expected in ((3, "5 classes, is replaced by a new one for 3"), (5, "")):
        notes: list[str] = []
        created = create_network(
            SMALL, num_classes, image_size=32, weights=str(tmp_path / "w.pt"), note=notes.append
        )
        assert created.has_new_head is bool(expected)
        assert expected in " ".join(notes)


def test_keys_of_a_file_that_does_not_fit_are_listed(tmp_path: Path) -> None:
    """Ten missing and ten unknown names are listed with their counts; foreign files are refused."""
    state = make_network().state_dict()
    names = list(state)
    renamed = {f"x.{n}" if n in names[:12] else n: tensor for n, tensor in state.items()}
    torch.save(renamed, tmp_path / "renamed.pt")
    with pytest.raises(InvalidModelDirectoryError) as raised:
        create_network(SMALL, 3, image_size=32, weights=str(tmp_path / "renamed.pt"))
    text = str(raised.value)
    assert "12 tensors are unknown to the network" in text
    assert f"x.{names[9]} and 2 more" in text
    assert f"x.{names[10]}" not in text
    torch.save({f"x.{n}": tensor for n, tensor in state.items()}, tmp_path / "foreign.pt")
    with pytest.raises(InvalidModelDirectoryError, match="weights of another network: none of"):
        create_network(SMALL, 3, image_size=32, weights=str(tmp_path / "foreign.pt"))


def test_dropout_is_set_in_every_dropout_layer_or_refused(store: str, colors: Path) -> None:
    """A network without dropout layers cannot have another dropout."""
    with pytest.raises(InvalidParameterError, match=f"{SMALL} has no dropout layer"):
        trialrun.train(train_data=str(colors), dropout=0.5, **TINY)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_preprocessing_of_published_weights_is_torchvisions(name: str, tmp_path: Path) -> None:
    """Crop and interpolation give the pixels of torchvision's transforms, up to rounding."""
    from trialrun.models.weights.published import describe_default_weights

    write_image(tmp_path / "photo.png", (120, 80, 40), size=512)
    image = Image.open(tmp_path / "photo.png")
    transforms = get_model_weights(name).DEFAULT.transforms()
    preprocessing = describe_default_weights(name)
    pixels = preprocessing.decode((tmp_path / "photo.png").read_bytes())
    expected = transforms(image)
    found = preprocessing.normalised(pixels[None])[0]
    assert found.shape == expected.shape == (3, 224, 224)
    assert (found - expected).abs().mean() < 0.05
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing
