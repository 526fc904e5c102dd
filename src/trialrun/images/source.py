"""Opening of a source of images (the argument DATA): a folder, an archive or a sample."""

from dataclasses import replace
from pathlib import Path

from trialrun.cache.location import archives_folder
from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.errors import InvalidDatasetError
from trialrun.images.checks.classes import hint_at_links
from trialrun.images.checks.label_text import normalize_labels
from trialrun.images.dataset import ImageSet
from trialrun.images.formats import READERS, sample
from trialrun.images.formats.archives import find_archive, read_notes, unpack_archive


def open_data(
    source: str,
    cache_folder: Path,
    *,
    path: Path | None = None,
    group_column: str | None = None,
    config: DataConfig = DEFAULT_DATA_CONFIG,
) -> ImageSet:
    """Read names and labels of the images in `source`, without opening an image.

    `path` is the location on this machine if it differs from `source`. An archive is unpacked into
    the cache.

    Raises:
        InvalidParameterError: A sample or a group column does not exist.
        InvalidDatasetError: The folder does not exist, cannot be read, or has no images.
        InvalidArchiveError: The archive is damaged or has an entry that is not allowed.
    """
    try:
        images = _read_folder(
            source, path or _resolve_path(source, cache_folder), cache_folder, group_column, config
        )
    except OSError as error:
        raise InvalidDatasetError(
            f"{source} cannot be read: {error.strerror or error}", "Check its name and permissions."
        ) from error
    if not images.items and not images.declared_classes:
        raise InvalidDatasetError(
            "; ".join([f"{source} has no images", *images.notes]),
            hint_at_links(images, "Give a folder with images."),
        )
    return images


def _add_archive_notes(images: ImageSet, cache_folder: Path) -> ImageSet:
    """Return the set with the notes on its archive, if it is one."""
    archives = archives_folder(cache_folder).resolve()
    if not images.root.is_relative_to(archives):
        return images
    unpacked = archives / images.root.relative_to(archives).parts[0]
    return replace(images, notes=(*read_notes(unpacked), *images.notes))


def _resolve_path(source: str, cache_folder: Path) -> Path:
    if source.startswith(sample.PREFIX):
        return sample.write_sample(source, cache_folder)
    try:
        return Path(source).expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise InvalidDatasetError(f"{source} not found: {error}", "Give a full path.") from None


def _read_folder(
    source: str, folder: Path, cache_folder: Path, group_column: str | None, config: DataConfig
) -> ImageSet:
    """Read the images in `folder`, or in the archive that it is or contains.

    Raises:
        OSError: The folder or its name cannot be read.
    """
    if not folder.exists():
        raise InvalidDatasetError(
            f"{source} not found (current folder: {Path.cwd()})",
            "Give a folder of images; an absolute path is safest with `mlflow run`.",
        )
    if (archive := find_archive(folder)) is not None:
        folder = unpack_archive(archive, cache_folder, encoding=config.archive_encoding)
    for reader in READERS:
        if reader.can_read(folder):
            images = reader.read_images(folder, source, group_column, config=config)
            return _add_archive_notes(normalize_labels(images), cache_folder)
    raise InvalidDatasetError(
        f"{source} is neither a folder of images nor an archive",
        "Give a folder with one sub-folder per class, or a .zip or .tar of one.",
    )
