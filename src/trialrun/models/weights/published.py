"""torchvision's published weights: which there are, their files in torch's cache, their input.

The metadata comes from torchvision; nothing is read or downloaded for it.
"""

from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torchvision
from torch import Tensor

from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError, summarize_error
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.weights.download import download_file
from trialrun.models.weights.serialization import read_state_file
from trialrun.models.zoo.names import DEFAULT_WEIGHTS, TIMM_PREFIX
from trialrun.models.zoo.timm import describe_timm_weights

_SETTING = f"weights={DEFAULT_WEIGHTS}"


def has_default_weights(architecture: str) -> bool:
    """Whether torchvision publishes weights of the network."""
    return bool(_list_published(architecture))


def describe_default_weights(architecture: str) -> Preprocessing:
    """Return the preprocessing that torchvision's default weights were trained for.

    Raises:
        InvalidParameterError: torchvision publishes none.
    """
    _check_published(architecture, _SETTING)
    return _describe_input(_find_default(architecture))


def describe_published_file(architecture: str, sha256: str) -> Preprocessing | None:
    """Return the preprocessing of a file that torchvision published; None for any other file.

    The name of a published file ends with the first digits of its sha256. A file for a network of
    timm is expected to have the preprocessing of timm's own weights.
    """
    if architecture.startswith(TIMM_PREFIX):
        return describe_timm_weights(architecture)
    published = (w for w in _list_published(architecture) if sha256.startswith(_read_digits(w)))
    return next(map(_describe_input, published), None)


def describe_licence(architecture: str) -> str:
    """Return what torchvision says about the licence of its default weights."""
    licence = _find_default(architecture).meta.get("license")
    return licence or "torchvision states none; the terms of ImageNet may apply"


def find_default_file(architecture: str) -> Path:
    """Return the path of the default weights in torch's cache, where they may be missing."""
    url = _find_default(architecture).url
    return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(url).name)


def fetch_default_file(
    architecture: str, *, seconds: float | None = None, setting: str = _SETTING
) -> Path:
    """Return the path of the default weights; download them if torch's cache lacks them.

    `setting` is named in errors as the setting that selects these weights.

    Raises:
        InvalidParameterError: They do not exist, or they cannot be downloaded within `seconds`.
    """
    _check_published(architecture, setting)
    weights, path = _find_default(architecture), find_default_file(architecture)
    if not path.is_file():
        try:
            download_file(weights.url, path, sha256_prefix=_read_digits(weights), seconds=seconds)
        except (OSError, ValueError) as error:
            problem = f"cannot be downloaded: {summarize_error(error)}"
            raise _unusable_error(architecture, path, problem, setting) from error
    return path


def load_pretrained_state(architecture: str, setting: str = _SETTING) -> dict[str, Tensor]:
    """Load torchvision's default weights from torch's cache, or download and verify them.

    `setting` is named in errors as the setting that selects these weights.

    Raises:
        InvalidParameterError: They cannot be downloaded, or their file is damaged.
    """
    path = fetch_default_file(architecture, setting=setting)
    try:
        return read_state_file(path)
    except InvalidModelDirectoryError as error:
        problem = f"is damaged: {summarize_error(error)}"
        raise _unusable_error(architecture, path, problem, setting) from error


def _unusable_error(
    architecture: str, path: Path, problem: str, setting: str
) -> InvalidParameterError:
    return InvalidParameterError(
        f"{setting}: {architecture}'s weights {path.name}: {problem}",
        f"Go online once, copy the file to {path}, give another with `weights=FILE`, or set "
        "weights=none to train from random weights.",
    )


def _check_published(architecture: str, setting: str) -> None:
    if not has_default_weights(architecture):
        raise InvalidParameterError(
            f"{setting}: torchvision has no weights of {architecture}",
            "Set weights=none, or weights=FILE.",
        )


def _list_published(architecture: str) -> list[Any]:
    try:
        return list(torchvision.models.get_model_weights(architecture))
    except ValueError:  # torchvision does not know the network
        return []


def _find_default(architecture: str) -> Any:
    return torchvision.models.get_model_weights(architecture).DEFAULT


def _read_digits(weights: Any) -> str:
    """Return the first digits of the file's sha256, which end its name: resnet18-f37072fd.pth."""
    return PurePosixPath(weights.url).stem.rpartition("-")[2]


def _describe_input(weights: Any) -> Preprocessing:
    transforms = weights.transforms()
    (crop_size,), (resize_size,) = transforms.crop_size, transforms.resize_size
    return Preprocessing(
        crop_size,
        tuple(transforms.mean),
        tuple(transforms.std),
        crop_fraction=crop_size / resize_size,
        interpolation=transforms.interpolation.value,
    )
