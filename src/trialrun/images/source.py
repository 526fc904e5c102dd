"""DATA: whatever the user names as a source of images, opened as an image set."""

from pathlib import Path

from trialrun.errors import InvalidDatasetError
from trialrun.images.dataset import ImageSet
from trialrun.images.formats import READERS, sample
from trialrun.images.formats.archives import find_archive, unpack_archive


def open_data(
    source: str,
    cache_folder: Path,
    *,
    path: Path | None = None,
    group_column: str | None = None,
) -> ImageSet:
    """Names and labels of the images in `source`; no image is opened.

    `path` is where it lies on this machine, where that is not what `source` says. An archive is
    unpacked into the cache.

    Raises:
        InvalidParameterError: A sample or a group column that does not exist.
        InvalidDatasetError: There is no such folder, it cannot be read, or it holds no image.
        InvalidArchiveError: An archive that is damaged or means harm.
    """
    try:
        images = _read_folder(
            source, path or _resolve_path(source, cache_folder), cache_folder, group_column
        )
    except OSError as error:
        raise InvalidDatasetError(
            f"{source} cannot be read: {error.strerror or error}", "Look at its name and rights."
        ) from error
    if not images.items and not images.declared_classes:
        raise InvalidDatasetError(f"{source} holds no images", "Give a folder with images in it.")
    return images


def _resolve_path(source: str, cache_folder: Path) -> Path:
    if source.startswith(sample.PREFIX):
        return sample.write_sample(source, cache_folder)
    try:
        return Path(source).expanduser()
    except RuntimeError as error:  # ~name, and there is no such user
        raise InvalidDatasetError(f"there is no {source}: {error}", "Give a full path.") from None


def _read_folder(
    source: str, folder: Path, cache_folder: Path, group_column: str | None
) -> ImageSet:
    """The images in `folder`, or in the archive that it is or holds.

    Raises:
        OSError: A folder or its name cannot be read.
    """
    if not folder.exists():
        raise InvalidDatasetError(
            f"there is no {source} (looked in {Path.cwd()})",
            "Give a folder of images; an absolute path is safest with `mlflow run`.",
        )
    if (archive := find_archive(folder)) is not None:
        folder = unpack_archive(archive, cache_folder)
    for reader in READERS:
        if reader.can_read(folder):
            return reader.read_images(folder, source, group_column)
    raise InvalidDatasetError(
        f"{source} is neither a folder of images nor an archive",
        "Give a folder with one sub-folder a class, or a .zip or .tar of one.",
    )
