"""DATA and MODEL as the user names them: what MLflow has elsewhere is downloaded first."""

from collections.abc import Mapping
from pathlib import Path

from trialrun.cache.location import cache_folder
from trialrun.errors import InvalidParameterError
from trialrun.images import ImageSet, open_data
from trialrun.images.checks.groups import group_by_pattern
from trialrun.mlflow_client import URI_SCHEMES, download_artifact

_copies: dict[str, Path] = {}  # where the last download of each address lies
_given: dict[str, Path] = {}


def list_copies() -> dict[str, str]:
    """Where this process has what it downloaded, by address, for processes that it begins."""
    return {uri: str(path) for uri, path in _copies.items()}


def use_copies(downloaded_by_parent: Mapping[str, str]) -> None:
    """Read these addresses from their copies, which whoever began this process keeps."""
    _given.update({uri: Path(path) for uri, path in downloaded_by_parent.items()})


def open_source(
    source: str,
    *,
    group_column: str | None = None,
    group_pattern: str | None = None,
    cache: Path | None = None,
) -> ImageSet:
    """Names and labels of the images in DATA, each in its group where groups are asked for.

    Raises:
        InvalidParameterError: A sample, a column or a match that there is not.
        DataError: As `open_data`.
        TrackingError: MLflow cannot download it.
    """
    if group_column is not None and group_pattern is not None:
        raise InvalidParameterError(
            "group_column and group_pattern are both set", "Set one of them."
        )
    path = None
    if source.startswith(URI_SCHEMES):
        path = _given.get(source) or download_artifact(source)
        _copies[source] = path
    images = open_data(source, cache or cache_folder(), path=path, group_column=group_column)
    return images if group_pattern is None else group_by_pattern(images, group_pattern)


def fetch_model(uri: str) -> Path:
    """The folder of models:/NAME/3, models:/NAME@alias or runs:/ID/model on this machine.

    Raises:
        TrackingError: There is no such model, or it cannot be downloaded.
    """
    from trialrun.registry import find_model_folder  # which loads torch

    path = _given.get(uri) or find_model_folder(uri)
    _copies[uri] = path
    return path


def find_local_path(name: str, fetched: Mapping[str, Path]) -> str:
    """`name`, or where what MLflow has under it is on this machine: in `fetched`, else fetched now.

    Raises:
        TrackingError: As `fetch_model`.
    """
    return str(fetched.get(name) or fetch_model(name)) if name.startswith(URI_SCHEMES) else name
