"""An UntrainedModelDirectory out of a network's name, the ancestor's switches and weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.config import NONE_TEXT
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.files import new_directory
from trialrun.models.names import ARCHITECTURES, DEFAULT_WEIGHTS, SWITCHES, check_name, takes_switch
from trialrun.runs.datasets.sources import local_path

if TYPE_CHECKING:
    from trialrun.images.decoding.preprocessing import Preprocessing


def init_model(name: str, out: str, *, weights: str, switches: Mapping[str, bool]) -> Path:
    """Write the directory and return it; `weights` is none, default, a file or a trained model.

    Of a trained model's weights the last layer is left out.

    Raises:
        InvalidModelDirectoryError: There is no such network, or the weights are not its own.
        InvalidParameterError: The network has no such switch, or weights cannot be downloaded.
        StorageError: `out` exists or cannot be written.
    """
    if name not in ARCHITECTURES:
        check_name(name)
        raise InvalidModelDirectoryError(
            f"{name} is a directory already", "Name a network of `trialrun model list`."
        )
    chosen = {switch: True for switch, on in switches.items() if on}
    for switch in chosen:
        if not takes_switch(name, switch):
            raise InvalidParameterError(
                f"{name} has no {switch}", f"It belongs to {' and '.join(SWITCHES[switch])}."
            )
    weights = local_path(weights, {})
    content = None if weights == NONE_TEXT else _weights(name, weights, chosen)
    folder = Path(out).expanduser()
    with new_directory(folder) as draft:
        from trialrun.models.directory import ModelDescription, write

        write(draft, ModelDescription(name, chosen, (), _preprocessing(name, weights)), content)
    return folder


def _weights(name: str, weights: str, switches: Mapping[str, bool]) -> bytes:
    from trialrun.models.open import read_initial
    from trialrun.models.weights import check_initial_names, to_bytes
    from trialrun.models.zoo import build, head_prefix, pretrained_state

    if weights == DEFAULT_WEIGHTS:
        return to_bytes(pretrained_state(name))
    initial = read_initial(Path(weights).expanduser(), name)
    network = build(name, 2, image_size=None, arguments=switches)
    prefix, state = head_prefix(network), initial.state
    check_initial_names(network, state, prefix, weights)
    if initial.classes:  # an untrained directory has no classes that the last layer would be for
        state = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    return to_bytes(state)


def _preprocessing(name: str, weights: str) -> "Preprocessing | None":
    """The images that the weights were trained on; no file says it."""
    if weights == NONE_TEXT:
        return None
    from trialrun.models.initial import describe_weights

    return describe_weights(name, weights)
