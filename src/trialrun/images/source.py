"""Opening of a source of images (the argument DATA): a folder, an archive or a sample."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from trialrun.cache.location import archives_folder
from trialrun.config.data import CLASSES_LAYOUT, DEFAULT_DATA_CONFIG, DataConfig
from trialrun.errors import InvalidDatasetError, InvalidParameterError
from trialrun.images.checks.classes import hint_at_links
from trialrun.images.checks.label_text import normalize_labels
from trialrun.images.dataset import ImageSet, make_printable
from trialrun.images.formats import LIST_READERS, READERS, sample
from trialrun.images.formats.archives import find_archive, read_notes, unpack_archive
from trialrun.images.formats.split_folders import (
    SplitFolders,
    check_one_part,
    find_split_folders,
)
from trialrun.images.items import encode_labels
from trialrun.images.labels.class_list import apply_class_list, read_class_list
from trialrun.images.labels.pattern import compile_label_pattern, label_by_pattern
from trialrun.images.labels.several import check_single_labels
from trialrun.images.shards.listing import ShardListing, find_shards, name_parts
from trialrun.images.shards.open import open_shards


def open_data(
    source: str,
    cache_folder: Path,
    *,
    path: Path | None = None,
    group_column: str | None = None,
    config: DataConfig = DEFAULT_DATA_CONFIG,
    shards: ShardListing | None = None,
) -> ImageSet:
    """Read names and labels of the images in `source`, without opening an image.

    `path` is the location on this machine if it differs from `source`; `shards` are those of the
    source if they were listed before. An archive is unpacked into
    the cache; `source` may also be a folder in it, such as set.zip/test.

    Raises:
        InvalidParameterError: A sample, a column or a class list does not exist.
        InvalidDatasetError: The folder does not exist, cannot be read, has no images, or is a root
            with split folders.
        InvalidArchiveError: The archive is damaged or has an entry that is not allowed.
    """
    check_label_settings(config)
    with translate_read_errors(source):
        listing = shards or find_shards(source, path, config)
        if listing is not None:
            if parts := listing.find_parts(config.data_layout):
                raise make_split_error(source, name_parts(parts))
            return read_shards(listing, source, cache_folder, group_column, config)
        folder = locate_data(source, path, cache_folder, config.archive_encoding)
        splits = find_split_folders(folder, source, config.data_layout)
        if splits is not None:
            raise make_split_error(source, splits)
        images = read_images(folder, source, group_column, config)
        return replace(images, notes=(*find_archive_notes(images, cache_folder), *images.notes))


def find_archive_notes(images: ImageSet, cache_folder: Path) -> Sequence[str]:
    """Return the notes on the unpacked archive that a set is in; empty if it is in none."""
    archives = archives_folder(cache_folder).resolve()
    if not images.root.is_relative_to(archives):
        return ()
    return read_notes(archives / images.root.relative_to(archives).parts[0])


def make_split_error(source: str, splits: SplitFolders) -> InvalidDatasetError:
    """Return the error for a root with split folders where one set is needed."""
    names = [make_printable(name) for name in splits.names.values()]
    parts = " or ".join(name_part(source, name) for name in names)
    return InvalidDatasetError(
        f"{source} is not one set but has the sets {', '.join(names)}",
        f"Give {parts}; or set data_layout=classes if these folders are classes.",
    )


def name_part(source: str, name: str) -> str:
    """Return the source of a part of a root, such as DATA/test."""
    return f"{source.rstrip('/')}/{name}"


@contextmanager
def translate_read_errors(source: str) -> Iterator[None]:
    """Turn errors of the file system into `InvalidDatasetError`."""
    try:
        yield
    except OSError as error:
        raise InvalidDatasetError(
            f"{source} cannot be read: {error.strerror or error}", "Check its name and permissions."
        ) from error


def check_label_settings(config: DataConfig) -> None:
    """Check what needs no data, so that a wrong folder does not hide it.

    Raises:
        InvalidParameterError: Settings contradict each other, or the pattern is not valid.
    """
    if config.label_pattern is None:
        return
    if config.label_column is not None:
        raise InvalidParameterError(
            "label_column and label_pattern are both set", "Set only one of them."
        )
    compile_label_pattern(config.label_pattern)


def locate_data(source: str, path: Path | None, cache_folder: Path, encoding: str) -> Path:
    """Return the folder of a source on this machine; archives are unpacked.

    `encoding` is the setting archive_encoding.

    Raises:
        OSError: The folder or its name cannot be read.
    """
    location = path or _resolve_path(source, cache_folder)
    if location.exists():
        archive = find_archive(location)
        return location if archive is None else unpack_archive(archive, cache_folder, encoding)
    if (inside := _locate_in_archive(location, cache_folder, encoding)) is not None:
        return inside
    raise InvalidDatasetError(
        f"{source} not found (current folder: {Path.cwd()})",
        "Give a folder of images; an absolute path is safest with `mlflow run`.",
    )


def _locate_in_archive(location: Path, cache_folder: Path, encoding: str) -> Path | None:
    """Return the unpacked folder of a path such as set.zip/test; None for other paths."""
    for parent in location.parents:
        if parent.is_dir():
            return None
        if parent.is_file() and (archive := find_archive(parent)) is not None:
            root = unpack_archive(archive, cache_folder, encoding)
            name = location.relative_to(parent)
            return _find_inside(root, name, archives_folder(cache_folder))
    return None


def _find_inside(root: Path, name: Path, archives: Path) -> Path | None:
    """Return the folder `name` in an unpacked archive; the archive's top folders are optional."""
    if ".." in name.parts:
        return None
    while root != archives:
        if (root / name).is_dir():
            return root / name
        root = root.parent
    return None


def _resolve_path(source: str, cache_folder: Path) -> Path:
    if source.startswith(sample.PREFIX):
        return sample.write_sample(source, cache_folder)
    try:
        return Path(source).expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise InvalidDatasetError(f"{source} not found: {error}", "Give a full path.") from None


def read_images(
    folder: Path, source: str, group_column: str | None, config: DataConfig
) -> ImageSet:
    """Read the images of one set in `folder`, with the labels that the settings ask for.

    Raises the errors of `open_data`.
    """
    for reader in READERS:
        if reader.can_read(folder):
            images = reader.read_images(folder, source, group_column, config=config)
            break
    else:
        raise InvalidDatasetError(
            f"{source} is neither a folder of images nor an archive",
            "Give a folder with one sub-folder per class, or a .zip or .tar of one.",
        )
    has_columns = reader in LIST_READERS
    if has_columns and config.data_layout != CLASSES_LAYOUT:
        check_one_part(images.items, source)
    if not images.items and not images.declared_classes:
        raise InvalidDatasetError(
            "; ".join([f"{source} has no images", *images.notes]),
            hint_at_links(images, "Give a folder with images."),
        )
    return _apply_label_settings(images, config, has_columns=has_columns)


def read_shards(
    listing: ShardListing,
    source: str,
    cache_folder: Path,
    group_column: str | None,
    config: DataConfig,
) -> ImageSet:
    """Read the images of one set in shards, with the labels that the settings ask for.

    Raises the errors of `open_shards`.
    """
    images = open_shards(listing, source, cache_folder, group_column=group_column, config=config)
    if not images.items:
        raise InvalidDatasetError(
            "; ".join([f"the shards of {source} have no images", *images.notes]),
            "Give shards with images.",
        )
    return _apply_label_settings(images, config, has_columns=True)


def _apply_label_settings(images: ImageSet, config: DataConfig, *, has_columns: bool) -> ImageSet:
    if config.label_pattern is not None:
        images = label_by_pattern(images, config.label_pattern)
    images = normalize_labels(images, merges=config.classes is not None)
    if config.classes is not None:
        return apply_class_list(images, read_class_list(config.classes))
    if has_columns:
        check_single_labels(encode_labels(images.items).count(), images.source)
    return images
