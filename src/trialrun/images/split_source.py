"""Opening of a root with split folders or shards: its parts are the sets of a training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.images.dataset import ImageSet, make_printable
from trialrun.images.formats.archives import find_archive, unpack_archive
from trialrun.images.formats.split_folders import (
    TEST,
    TRAIN,
    VALID,
    SplitFolders,
    find_split_folders,
)
from trialrun.images.shards.listing import ShardListing, find_shards, name_parts
from trialrun.images.source import (
    check_label_settings,
    find_archive_notes,
    locate_data,
    make_split_error,
    name_part,
    read_images,
    read_shards,
    translate_read_errors,
)


@dataclass(frozen=True, slots=True)
class SplitSource:
    """The parts of a root that were read, and how it was read as a parameter of a run."""

    train: ImageSet
    valid: ImageSet | None
    test: ImageSet | None
    layout: str


def open_splits(
    source: str,
    cache_folder: Path,
    *,
    path: Path | None = None,
    group_column: str | None = None,
    config: DataConfig = DEFAULT_DATA_CONFIG,
    uses_valid: bool = True,
    uses_test: bool = False,
    shards: ShardListing | None = None,
) -> SplitSource | None:
    """Read the parts of a root with split folders or shards; None if `source` is not one.

    `shards` are those of the source if they were listed before. A validation or test set that is
    not used is not read. Notes of the training set say how the root was read.

    Raises:
        DataError: See `open_data`.
        InvalidParameterError: See `open_data`.
    """
    check_label_settings(config)
    used = {TRAIN} | {role for role, uses in ((VALID, uses_valid), (TEST, uses_test)) if uses}
    with translate_read_errors(source):
        found = _find_parts(source, path, cache_folder, config, shards)
        if found is None:
            return None
        splits, places = found
        if TRAIN not in splits.names:
            raise make_split_error(source, splits)
        parts: dict[str, ImageSet] = {}
        for role in sorted(used & splits.names.keys()):
            part = name_part(source, splits.names[role])
            parts[role] = _read_part(places[role], part, cache_folder, group_column, config)
    parts = _add_archive_notes(parts, cache_folder)
    kind = "folders" if isinstance(places[TRAIN], Path) else "shards"
    notes = _describe_splits(source, splits, kind, uses_valid=uses_valid)
    train = replace(parts[TRAIN], notes=(*notes, *parts[TRAIN].notes))
    layout = _name_layout(splits, uses_valid=uses_valid)
    return SplitSource(train, parts.get(VALID), parts.get(TEST), layout)


def _find_parts(
    source: str,
    path: Path | None,
    cache_folder: Path,
    config: DataConfig,
    shards: ShardListing | None,
) -> tuple[SplitFolders, Mapping[str, Path | ShardListing]] | None:
    """Return the names and the places of the parts; None if `source` is one set."""
    listing = shards or find_shards(source, path, config)
    if listing is not None:
        listed = listing.find_parts(config.data_layout)
        return (name_parts(listed), listed) if listed else None
    root = locate_data(source, path, cache_folder, config.archive_encoding)
    splits = find_split_folders(root, source, config.data_layout)
    if splits is None:
        return None
    return splits, {role: root / name for role, name in splits.names.items()}


def _read_part(
    place: Path | ShardListing,
    source: str,
    cache_folder: Path,
    group_column: str | None,
    config: DataConfig,
) -> ImageSet:
    """Read a part: shards, or a folder of images or of shards, or an archive."""
    shards = find_shards(source, place, config) if isinstance(place, Path) else place
    if shards is not None:
        return read_shards(shards, source, cache_folder, group_column, config)
    assert isinstance(place, Path)
    if (archive := find_archive(place)) is not None:
        place = unpack_archive(archive, cache_folder, config.archive_encoding)
    return read_images(place, source, group_column, config)


def _add_archive_notes(parts: Mapping[str, ImageSet], cache_folder: Path) -> dict[str, ImageSet]:
    """Return the parts with the notes on their archives; parts of one archive have them once."""
    noted: dict[str, ImageSet] = {}
    seen: set[str] = set()
    for role in sorted(parts, key=lambda role: role != TRAIN):
        notes = [note for note in find_archive_notes(parts[role], cache_folder) if note not in seen]
        seen.update(notes)
        noted[role] = replace(parts[role], notes=(*notes, *parts[role].notes))
    return noted


def _describe_splits(
    source: str, splits: SplitFolders, kind: str, *, uses_valid: bool
) -> tuple[str, ...]:
    """Return how the root was read, as notes; `kind` is what the parts are."""
    shown = {role: make_printable(name) for role, name in splits.names.items()}
    text = f"the {kind} of {make_printable(source)} are its sets: {shown[TRAIN]} for training"
    if VALID in shown and uses_valid:
        text += f", {shown[VALID]} for validation"
    elif VALID in shown:
        text += f"; {shown[VALID]} is not used, because valid_data is given"
    if TEST in shown:
        test = make_printable(name_part(source, splits.names[TEST]))
        text += f"; {shown[TEST]} is kept out (evaluate and promote take {test})"
    ignored = ", ".join(map(make_printable, splits.ignored))
    return (text, f"folders that are not read: {ignored}") if ignored else (text,)


def _name_layout(splits: SplitFolders, *, uses_valid: bool) -> str:
    """Return how the root was read, as a parameter of a run."""
    used = (TRAIN, VALID) if uses_valid else (TRAIN,)
    parts = [f"{role}={name}" for role, name in splits.names.items() if role in used]
    unused = [name for role, name in splits.names.items() if role not in used]
    words = sorted(parts) + (["not used: " + ", ".join(sorted(unused))] if unused else [])
    return f"splits ({'; '.join(map(make_printable, words))})"
