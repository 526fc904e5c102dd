"""Creates an UntrainedModelDirectory from an architecture, its switches and initial weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.config import AUTO_TEXT, NONE_TEXT
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.files import create_directory
from trialrun.models.zoo.names import (
    DEFAULT_WEIGHTS,
    SWITCHES,
    check_model_name,
    is_network_name,
    supports_switch,
)
from trialrun.runs.datasets.sources import find_local_path

if TYPE_CHECKING:
    from trialrun.images.decoding.preprocessing import Preprocessing


def write_untrained_model(
    name: str, out: str, *, weights: str, switches: Mapping[str, bool]
) -> Path:
    """Write the directory and return it; `weights` is none, default, a file or a trained model.

    The last layer of a trained model is not copied.

    Raises:
        InvalidModelDirectoryError: `name` is not an architecture, or the weights do not fit it.
        InvalidParameterError: The architecture lacks a switch, or weights cannot be downloaded.
        StorageError: `out` exists or cannot be written.
    """
    if not is_network_name(name):
        check_model_name(name)
        raise InvalidModelDirectoryError(
            f"{name} is a directory already",
            "Give the name of a network; `trialrun model list` shows them.",
        )
    enabled = {switch: True for switch, is_on in switches.items() if is_on}
    for switch in enabled:
        if not supports_switch(name, switch):
            raise InvalidParameterError(
                f"{name} has no {switch}", f"It belongs to {' and '.join(SWITCHES[switch])}."
            )
    if weights == AUTO_TEXT:
        raise InvalidParameterError(
            "weights=auto depends on the images, which `trialrun model init` does not have",
            "Give none, default, a file of weights or a trained model.",
        )
    weights = find_local_path(weights, {})
    content = None if weights == NONE_TEXT else _load_weights(name, weights, enabled)
    folder = Path(out).expanduser()
    with create_directory(folder) as draft:
        from trialrun.models.directory import ModelDescription, write_model_directory

        write_model_directory(
            draft,
            ModelDescription(name, enabled, (), _choose_preprocessing(name, weights)),
            content,
        )
    return folder


def _load_weights(name: str, weights: str, switches: Mapping[str, bool]) -> bytes:
    from trialrun.models.open import read_initial_state
    from trialrun.models.weights.published import load_pretrained_state
    from trialrun.models.weights.serialization import check_initial_names, serialize_state
    from trialrun.models.zoo.networks import build_network, find_head_prefix

    if weights == DEFAULT_WEIGHTS:
        return serialize_state(load_pretrained_state(name))
    initial = read_initial_state(Path(weights).expanduser(), name)
    network = build_network(name, 2, image_size=None, arguments=switches)
    prefix, state = find_head_prefix(network), initial.state
    check_initial_names(network, state, prefix, weights)
    if initial.classes:  # the last layer's rows belong to these classes
        state = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    return serialize_state(state)


def _choose_preprocessing(name: str, weights: str) -> "Preprocessing | None":
    """Return the preprocessing of the weights; None without weights or for a file of weights."""
    if weights == NONE_TEXT:
        return None
    from trialrun.models.weights.initial import describe_weights

    return describe_weights(name, weights)
