"""Networks of timm (extra `[timm]`), named `timm/NAME`: builds them, reads their metadata.

timm runs only its own code here; its published weights are read with `weights_only`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError, summarize_error
from trialrun.extras import import_extra
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.names import TIMM_PREFIX

_EXTRA = "timm"
_LIST_HINT = "`trialrun model list --timm` lists timm's networks."


def _import_timm() -> Any:
    return import_extra("timm", _EXTRA, needed_by=f"a network named {TIMM_PREFIX}NAME")


def list_timm_names() -> list[str]:
    """Return the names of all networks of timm.

    Raises:
        InvalidParameterError: timm is not installed.
    """
    return [TIMM_PREFIX + name for name in _import_timm().list_models()]


def read_timm_config(name: str) -> Any:
    """Return timm's description of a network and of its default weights, a `PretrainedCfg`.

    Raises:
        InvalidModelDirectoryError: timm does not know the network.
        InvalidParameterError: timm is not installed.
    """
    timm = _import_timm()
    short = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(short):
        raise InvalidModelDirectoryError(f"timm {timm.__version__} has no {short}", _LIST_HINT)
    return timm.models.get_pretrained_cfg(short)


def build_timm_network(name: str, num_classes: int, image_size: int | None) -> nn.Module:
    """Build a network with random weights; one for a fixed image size gets `image_size`.

    Raises:
        InvalidModelDirectoryError: timm does not know the network.
        InvalidParameterError: timm is not installed, or does not build the network.
    """
    config = read_timm_config(name)
    arguments: dict[str, Any] = {}
    if config is not None and config.fixed_input_size and image_size is not None:
        arguments["img_size"] = image_size
    try:
        network: nn.Module = _import_timm().create_model(
            name.removeprefix(TIMM_PREFIX),
            pretrained=False,
            num_classes=num_classes,
            **arguments,
        )
    except (ValueError, RuntimeError, AssertionError, TypeError) as error:
        raise InvalidParameterError(
            f"{name} cannot be built for images of {image_size} pixels ({summarize_error(error)})",
            "Set image_size to the size that its weights were trained with.",
        ) from error
    return network


def describe_timm_weights(name: str) -> Preprocessing:
    """Return the image size and normalization that timm's default weights were trained with.

    Raises:
        InvalidModelDirectoryError: timm does not know the network.
    """
    config = read_timm_config(name)
    return Preprocessing(config.input_size[-1], tuple(config.mean), tuple(config.std))


def find_fixed_size(name: str) -> int | None:
    """Return the only image size that a network supports; None if it supports several.

    Raises:
        InvalidModelDirectoryError: timm does not know the network.
    """
    config = read_timm_config(name)
    return int(config.input_size[-1]) if config is not None and config.fixed_input_size else None


def has_timm_weights(name: str) -> bool:
    """Whether timm publishes weights of the network.

    Raises:
        InvalidModelDirectoryError: timm does not know the network.
    """
    config = read_timm_config(name)
    return config is not None and bool(config.has_weights)


def load_timm_weights(name: str, setting: str) -> Mapping[str, Tensor]:
    """Load timm's default weights from its cache, or download them.

    `setting` is named in errors as the setting that selects these weights.

    Raises:
        InvalidModelDirectoryError: timm does not know the network.
        InvalidParameterError: There are none, or they cannot be downloaded.
    """
    if not has_timm_weights(name):
        raise InvalidParameterError(
            f"{setting}: timm publishes no weights of {name}", "Set weights=none or weights=FILE."
        )
    try:
        network: nn.Module = _import_timm().create_model(
            name.removeprefix(TIMM_PREFIX), pretrained=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidParameterError(
            f"{setting}: {name}'s weights cannot be downloaded: {summarize_error(error)}",
            "Go online once, set weights=FILE, or weights=none for random weights.",
        ) from error
    return network.state_dict()
