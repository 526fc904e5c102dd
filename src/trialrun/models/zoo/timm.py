"""Networks of timm (extra `[timm]`), named `timm/NAME`: builds them, reads their metadata.

Their weights are given as files: timm's downloads are not used.
"""

from typing import Any

from torch import nn

from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError, summarize_error
from trialrun.extras import import_extra
from trialrun.images.decoding.fitting import CROP, PAD, SQUASH
from trialrun.images.decoding.preprocessing import INTERPOLATIONS, Preprocessing
from trialrun.models.zoo.names import TIMM_PREFIX

_EXTRA = "timm"
_FITS = {"squash": SQUASH, "border": PAD}  # timm's crop modes other than center
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


def describe_timm_weights(name: str) -> Preprocessing | None:
    """Return the preprocessing that timm's weights were trained for; None if it publishes none.

    Raises:
        InvalidModelDirectoryError: timm does not know the network.
    """
    config = read_timm_config(name)
    if config is None or not config.has_weights:
        return None
    interpolation = config.interpolation if config.interpolation in INTERPOLATIONS else "bilinear"
    return Preprocessing(
        config.input_size[-1],
        tuple(config.mean),
        tuple(config.std),
        crop_fraction=config.crop_pct,
        interpolation=interpolation,
        fit=_FITS.get(config.crop_mode, CROP),
    )


def find_fixed_size(name: str) -> int | None:
    """Return the only image size that a network supports; None if it supports several.

    Raises:
        InvalidModelDirectoryError: timm does not know the network.
    """
    config = read_timm_config(name)
    return int(config.input_size[-1]) if config is not None and config.fixed_input_size else None
