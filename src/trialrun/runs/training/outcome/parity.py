"""Parity of a trained network with the model that is logged: the same images through each path."""

import copy
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trialrun.engine.state import TrainState
from trialrun.errors import InvalidModelDirectoryError
from trialrun.images.decoding.file_io import read_item
from trialrun.images.decoding.header import UndecodableError
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription
from trialrun.models.open import open_classifier, read_trained_model
from trialrun.models.weights.state_hash import hash_frozen_layers
from trialrun.runs.training.inputs.data import PreparedData, PreparedSet
from trialrun.scoring.network import TorchNetwork
from trialrun.scoring.parity import (
    NUM_PARITY_IMAGES,
    Parity,
    choose_parity_images,
    compare_forms,
    compute_all,
    decode_images,
)
from trialrun.scoring.scores import LABEL_COLUMN
from trialrun.serving.package import add_serving_files
from trialrun.serving.served import load_served_model

_CPU = torch.device("cpu")


def measure_parity(
    state: TrainState,
    weights: Mapping[str, Tensor],
    description: ModelDescription,
    folder: Path,
    data: PreparedData,
) -> Parity:
    """Compare the trained network with `load_model` and the pyfunc model, on validation images.

    `weights` are those of the best epoch, `folder` contains the data files of the model to log and
    gets MLflow's files. Drawn images of odd sizes are added. All paths compute in fp32 on the CPU.

    A model that differs from one that this process has compared in its last layer only computes no
    images: it is equal if its file has the bits of `weights`.
    """
    frozen, compared = _hash_frozen_layers(state, weights, description), data.backbones.compared
    if frozen in compared and _has_weights(folder, weights):
        return Parity(0, {"file": 0.0})
    own = list(islice(_read_files(data.valid), NUM_PARITY_IMAGES))
    files = choose_parity_images(own)
    parity = _compare_on_files(state.inference_model(), weights, description, folder, files)
    if frozen is not None and parity.is_equal:
        compared.add(frozen)
    return parity


def _has_weights(folder: Path, weights: Mapping[str, Tensor]) -> bool:
    """Whether the file of a model directory has the names and the bits of `weights`."""
    stored = read_trained_model(folder).state or {}
    return stored.keys() == weights.keys() and all(
        stored[name].dtype == tensor.dtype and torch.equal(stored[name], tensor.cpu())
        for name, tensor in weights.items()
    )


def _hash_frozen_layers(
    state: TrainState, weights: Mapping[str, Tensor], description: ModelDescription
) -> str | None:
    """Return a digest of everything in a model but its last layer; None if other layers train."""
    if not state.has_frozen_backbone:
        return None
    return f"{hash_frozen_layers(weights, state.head_prefix)} {description.to_json()}"


def _compare_on_files(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    description: ModelDescription,
    folder: Path,
    files: list[bytes],
) -> Parity:
    preprocessing = description.preprocessing
    assert preprocessing is not None
    trained = copy.deepcopy(network).to(_CPU).float().eval()
    trained.load_state_dict(dict(weights))
    classifier = ImageClassifier(trained, description.classes, preprocessing).eval()
    pixels = decode_images(preprocessing, files)
    expected = compute_all(TorchNetwork(classifier, _CPU), pixels)
    loaded = compute_all(TorchNetwork(open_classifier(folder), _CPU), pixels)
    add_serving_files(folder, description, model_id="", run_id="")
    served = _predict_served(load_served_model(folder).predict(files))
    return compare_forms(expected, {"load_model": loaded, "pyfunc": served})


def check_parity(parity: Parity, model_uri: str | None) -> None:
    """Check that the logged model is the trained one.

    Raises:
        InvalidModelDirectoryError: It computes other probabilities.
    """
    if not parity.is_equal:
        raise InvalidModelDirectoryError(
            f"the logged model is not equal to the trained network: {parity.describe_largest()}",
            f"Nothing is registered; the model is kept as {model_uri or 'a record of the run'}.",
        )


def _predict_served(table: object) -> NDArray[np.float32]:
    """Return the probabilities in a table of the pyfunc model."""
    import pandas as pd

    assert isinstance(table, pd.DataFrame)
    return table.drop(columns=LABEL_COLUMN).to_numpy(dtype=np.float32)


def _read_files(valid: PreparedSet) -> Iterator[bytes]:
    """Yield the files of the usable validation images; those that have changed are left out."""
    images = valid.scan.images
    for row in valid.dataset.rows.tolist():
        try:
            yield read_item(images, images.items[row]).data
        except UndecodableError:
            continue
