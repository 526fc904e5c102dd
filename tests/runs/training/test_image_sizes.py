"""Tests of the first image size with real networks, and of runs with progressive_resize."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from torchvision.models import VisionTransformer

import trialrun
from tests.conftest import make_network
from trialrun.config import TrainConfig
from trialrun.errors import InvalidParameterError
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.image_sizes import RESOLVED_SIZES, resolve_image_sizes
from trialrun.runs.training.inputs.data import prepare_data
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.run import train_run

SQUEEZE = "squeezenet1_1"  # takes images of 17 pixels or more
QUICK: dict[str, Any] = {"model": "shufflenet_v2_x0_5", "batch_size": 8}


class Notes(NoOpCallback):
    """Collects the notes of a run."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_note(self, text: str) -> None:
        """Append the note."""
        self.texts.append(text)


def test_half_of_the_image_size_is_the_first_one() -> None:
    """`on` becomes a number of pixels."""
    config = TrainConfig(progressive_resize="on")
    resolved, note = resolve_image_sizes(config, make_network(), "shufflenet_v2_x0_5", 160)
    assert (resolved.progressive_resize, note) == (80, None)


def test_first_size_that_the_network_does_not_take_is_refused() -> None:
    """The hint names the smallest size that works."""
    config = TrainConfig(progressive_resize=12)
    with pytest.raises(InvalidParameterError, match="does not take images of 12 pixels") as raised:
        resolve_image_sizes(config, make_network(SQUEEZE), SQUEEZE, 32)
    assert "progressive_resize=20" in raised.value.hint


def test_network_for_one_image_size_is_refused() -> None:
    """A vision transformer has one embedding per patch."""
    torch.manual_seed(1)
    network = VisionTransformer(160, 32, 1, 1, 8, 8, num_classes=3)
    with pytest.raises(InvalidParameterError, match="takes no images below 160 pixels") as raised:
        resolve_image_sizes(TrainConfig(progressive_resize="on"), network, "vit_b_32", 160)
    assert "progressive_resize=off" in raised.value.hint


def test_small_images_stay_as_they_are() -> None:
    """They hardly train faster at half the size; a number of pixels is obeyed."""
    network, name = make_network(), "shufflenet_v2_x0_5"
    resolved, note = resolve_image_sizes(TrainConfig(progressive_resize="on"), network, name, 32)
    assert resolved.progressive_resize == "off"
    assert note is not None
    assert "images of 32 pixels" in note
    resolved, note = resolve_image_sizes(TrainConfig(progressive_resize=16), network, name, 32)
    assert (resolved.progressive_resize, note) == (16, None)


def test_first_size_above_that_of_the_images_is_refused(colors: Path) -> None:
    """With image_size=auto the images decide, before they are decoded."""
    plan = plan_training({"train_data": str(colors), "progressive_resize": 48, **QUICK})
    with pytest.raises(InvalidParameterError, match=r"=48 is not below the image size \(32 pixels"):
        prepare_data(plan, Notes())


def test_run_logs_the_size_of_each_epoch(store: str, colors: Path) -> None:
    """The metric has one value per epoch; the parameter has all sizes."""
    result = trialrun.train(
        train_data=str(colors), progressive_resize=16, epochs=6, augment="standard", **QUICK
    )
    client = mlflow.MlflowClient(store)
    history = client.get_metric_history(result.run_id, "train_image_size")
    sizes = [16, 16, 16, 20, 32, 32]
    assert [(metric.step, metric.value) for metric in history] == [*enumerate(sizes, start=1)]
    params = client.get_run(result.run_id).data.params
    assert params["progressive_resize"] == "16"
    assert params[RESOLVED_SIZES] == "16 (epochs 1 to 3), 20 (epoch 4), 32 (epochs 5 to 6)"


def test_single_epoch_notes_that_it_has_the_full_size(store: str, colors: Path) -> None:
    """The run trains as without the setting, and logs no size."""
    notes = Notes()
    plan: dict[str, Any] = {"train_data": str(colors), "epochs": 1, **QUICK}
    result = train_run(plan_training({**plan, "progressive_resize": 16}), notes)
    assert any("no effect: all layers train in one epoch only" in text for text in notes.texts)
    run = mlflow.MlflowClient(store).get_run(result.run_id).data
    assert "train_image_size" not in run.metrics
    assert RESOLVED_SIZES not in run.params
