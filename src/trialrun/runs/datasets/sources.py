"""Opens datasets and models as the user names them; downloads those that MLflow stores remotely."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trialrun.cache.location import cache_folder
from trialrun.errors import InvalidParameterError
from trialrun.images import ImageSet, open_data
from trialrun.images.checks.groups import group_by_pattern
from trialrun.mlflow_client import URI_SCHEMES
from trialrun.runs.datasets.downloads import fetch_data

_downloads: dict[str, Path] = {}  # the last local copy of each URI
_parent_downloads: dict[str, Path] = {}  # copies that the parent process made


def list_copies() -> dict[str, str]:
    """Return the local copies of this process by URI, for its worker processes."""
    return {uri: str(path) for uri, path in _downloads.items()}


def use_copies(downloaded_by_parent: Mapping[str, str]) -> None:
    """Read these URIs from local copies, which the parent process keeps until it exits."""
    _parent_downloads.update({uri: Path(path) for uri, path in downloaded_by_parent.items()})


def open_source(
    source: str,
    *,
    group_column: str | None = None,
    group_pattern: str | None = None,
    cache: Path | None = None,
) -> ImageSet:
    """Return the names, labels and, if requested, groups of the images in `source`.

    Raises:
        InvalidParameterError: The sample or the group column does not exist, or the group pattern
            does not match.
        DataError: See `open_data`.
        TrackingError: MLflow cannot download `source`.
    """
    if group_column is not None and group_pattern is not None:
        raise InvalidParameterError(
            "group_column and group_pattern are both set", "Set only one of them."
        )
    path, notes, cache = None, list[str](), cache or cache_folder()
    if source.startswith(URI_SCHEMES):
        path = _parent_downloads.get(source) or fetch_data(source, cache, notes.append)
        _downloads[source] = path
    images = open_data(source, cache, path=path, group_column=group_column)
    images = replace(images, notes=(*notes, *images.notes))
    return images if group_pattern is None else group_by_pattern(images, group_pattern)


def fetch_model(uri: str) -> Path:
    """Return the local folder of models:/NAME/3, models:/NAME@alias or runs:/ID/model.

    Raises:
        TrackingError: The model does not exist or cannot be downloaded.
    """
    from trialrun.registry import find_model_folder  # loads torch

    path = _parent_downloads.get(uri) or find_model_folder(uri)
    _downloads[uri] = path
    return path


def find_local_path(name: str, fetched: Mapping[str, Path]) -> str:
    """Return `name`, or the local folder of a URI: from `fetched`, else downloaded now.

    Raises:
        TrackingError: See `fetch_model`.
    """
    return str(fetched.get(name) or fetch_model(name)) if name.startswith(URI_SCHEMES) else name
