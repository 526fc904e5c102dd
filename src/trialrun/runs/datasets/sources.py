"""Opens datasets and models as the user names them; downloads those that MLflow stores remotely."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trialrun.cache.location import cache_folder
from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.errors import InvalidParameterError
from trialrun.files import FILE_SCHEME
from trialrun.images import ImageSet, open_data
from trialrun.images.checks.groups import group_by_pattern
from trialrun.images.shards.listing import ShardListing, find_shards
from trialrun.images.split_source import open_splits
from trialrun.mlflow_client import URI_SCHEMES
from trialrun.runs.datasets.downloads import fetch_data

_ONE_SET = "one set"
_IN_ARCHIVE = re.compile(
    r"(.+?\.(?:zip|tar|tgz|tbz2?|tar\.(?:gz|bz2|xz|zst)|7z))/(.+)", re.IGNORECASE
)

_downloads: dict[str, Path] = {}  # the last local copy of each URI
_parent_downloads: dict[str, Path] = {}  # copies that the parent process made


def list_copies() -> dict[str, str]:
    """Return the local copies of this process by URI, for its worker processes."""
    return {uri: str(path) for uri, path in _downloads.items()}


def use_copies(downloaded_by_parent: Mapping[str, str]) -> None:
    """Read these URIs from local copies, which the parent process keeps until it exits."""
    _parent_downloads.update({uri: Path(path) for uri, path in downloaded_by_parent.items()})


@dataclass(frozen=True, slots=True)
class OpenedSets:
    """A training set, the validation and test set that go with it, and how the layout was read.

    `layout` is text for a parameter of a run.
    """

    train: ImageSet
    valid: ImageSet | None
    test: ImageSet | None
    layout: str


def open_source(
    source: str,
    *,
    group_column: str | None = None,
    group_pattern: str | None = None,
    config: DataConfig = DEFAULT_DATA_CONFIG,
    cache: Path | None = None,
) -> ImageSet:
    """Return the names, labels and, if requested, groups of the images in `source`.

    Raises:
        InvalidParameterError: The sample, a column or the class list does not exist, or a pattern
            does not match.
        DataError: See `open_data`.
        TrackingError: MLflow cannot download `source`.
    """
    _check_groups(group_column, group_pattern)
    folder = cache or cache_folder()
    shards = list_remote_shards(source, config)
    path, notes = (None, ()) if shards else _find_copy(source, folder)
    images = open_data(
        source, folder, path=path, group_column=group_column, config=config, shards=shards
    )
    return _set_groups(_add_notes(images, notes), group_pattern)


def open_sets(
    source: str,
    *,
    group_column: str | None = None,
    group_pattern: str | None = None,
    config: DataConfig = DEFAULT_DATA_CONFIG,
    cache: Path | None = None,
    uses_valid: bool = True,
    uses_test: bool = False,
) -> OpenedSets:
    """Return the training set in `source`, and the parts that are used if it has split folders.

    Raises the errors of `open_source`.
    """
    _check_groups(group_column, group_pattern)
    folder = cache or cache_folder()
    shards = list_remote_shards(source, config)
    path, notes = (None, ()) if shards else _find_copy(source, folder)
    splits = open_splits(
        source,
        folder,
        path=path,
        group_column=group_column,
        config=config,
        uses_valid=uses_valid,
        uses_test=uses_test,
        shards=shards,
    )
    if splits is None:
        images = open_data(
            source, folder, path=path, group_column=group_column, config=config, shards=shards
        )
        images = _set_groups(_add_notes(images, notes), group_pattern)
        return OpenedSets(images, None, None, _ONE_SET)
    valid, test = (
        None if images is None else _set_groups(images, group_pattern)
        for images in (splits.valid, splits.test)
    )
    train = _set_groups(_add_notes(splits.train, notes), group_pattern)
    return OpenedSets(train, valid, test, splits.layout)


def list_remote_shards(source: str, config: DataConfig) -> ShardListing | None:
    """Return the shards at an address in a store; None if MLflow has to download it, or a path.

    Raises the errors of `find_shards`.
    """
    is_remote = "://" in source and not source.startswith(FILE_SCHEME)
    return find_shards(source, None, config) if is_remote else None


def _check_groups(group_column: str | None, group_pattern: str | None) -> None:
    if group_column is not None and group_pattern is not None:
        raise InvalidParameterError(
            "group_column and group_pattern are both set", "Set only one of them."
        )


def _set_groups(images: ImageSet, group_pattern: str | None) -> ImageSet:
    return images if group_pattern is None else group_by_pattern(images, group_pattern)


def _add_notes(images: ImageSet, notes: Sequence[str]) -> ImageSet:
    return replace(images, notes=(*notes, *images.notes))


def _find_copy(source: str, cache: Path) -> tuple[Path | None, Sequence[str]]:
    """Return the local copy of a URI and notes on it; None for a source on this machine."""
    if not source.startswith(URI_SCHEMES):
        return None, ()
    # A folder in an archive has no address of its own: the archive is downloaded.
    match = _IN_ARCHIVE.fullmatch(source)
    uri, inside = match.groups() if match else (source, "")
    notes: list[str] = []
    path = _parent_downloads.get(uri) or fetch_data(uri, cache, notes.append)
    _downloads[uri] = path
    return path / inside, notes


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
