"""Parity of logged models with the trained network, and MLflow's pytorch flavor."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

import trialrun
from trialrun.errors import InvalidModelDirectoryError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.weights import serialization
from trialrun.scoring.parity import (
    MAX_PARITY_DIFFERENCE,
    NUM_PARITY_IMAGES,
    choose_parity_images,
    compare_forms,
    decode_images,
)

QUICK: dict[str, Any] = {"model": "shufflenet_v2_x0_5", "epochs": 1, "batch_size": 8}


def test_registered_model_is_equal_and_can_have_the_pytorch_flavor(
    store: str, colors: Path
) -> None:
    """Run and version have the largest difference; MLflow's flavor computes the same logits."""
    result = trialrun.train(
        train_data=str(colors), register_as="colors", pytorch_flavor=True, **QUICK
    )
    client = mlflow.MlflowClient(store)
    run = client.get_run(result.run_id)
    assert run.data.metrics["parity_seconds"] > 0
    tags = run.data.tags
    assert float(tags["parity_max_difference"]) <= MAX_PARITY_DIFFERENCE
    version = client.get_model_version("colors", "1")
    assert version.tags["parity_max_difference"] == tags["parity_max_difference"]

    classifier = trialrun.load_model("models:/colors/1")
    network = mlflow.pytorch.load_model("models:/colors/1").eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(images), classifier(images), rtol=0, atol=1e-5)


def test_model_that_differs_from_the_trained_network_is_not_registered(
    store: str, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are written wrong are an error; the model is kept, without a version."""
    serialize = serialization.serialize_state
    monkeypatch.setattr(  # a fault: the last layer is written with another scale
        serialization,
        "serialize_state",
        lambda state: serialize({k: 2 * v if k == "fc.weight" else v for k, v in state.items()}),
    )
    with pytest.raises(InvalidModelDirectoryError, match="not equal to the trained network"):
        trialrun.train(train_data=str(colors), register_as="colors", **QUICK)
    client = mlflow.MlflowClient(store)
    assert client.search_model_versions("name = 'colors'") == []
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FAILED"
    assert float(run.data.tags["parity_max_difference"]) > MAX_PARITY_DIFFERENCE
    assert "parity_failed" in mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/events.jsonl")
    assert len(client.search_logged_models(["1"])) == 1


def test_parity_images_have_odd_sizes() -> None:
    """32 or more images, some of them neither square nor even, whatever the set holds."""
    for num_files in (0, 5, 40):
        files = choose_parity_images([choose_parity_images([])[0]] * num_files)
        assert len(files) >= NUM_PARITY_IMAGES
        assert len(decode_images(Preprocessing(32), files)) == len(files)


def test_nan_is_no_parity() -> None:
    """A form that returns NaN, or another number of images, differs infinitely."""
    expected = np.full((2, 3), 1 / 3, dtype=np.float32)
    parity = compare_forms(expected, {"a": expected * np.float32("nan"), "b": expected})
    assert parity.max_difference == float("inf")
    assert not parity.is_equal
    assert not compare_forms(expected, {"a": expected[:1]}).is_equal
