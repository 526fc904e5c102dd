"""Opening of shards as an image set, by an index that is read from their headers once."""

from dataclasses import replace
from pathlib import Path

from trialrun.cache.location import cache_limit_bytes, scans_folder, shards_folder
from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.errors import InvalidParameterError
from trialrun.images.dataset import ImageSet
from trialrun.images.items import ItemTable, encode_labels
from trialrun.images.scanning.scan import ignore_progress
from trialrun.images.shards.columns import ColumnNames, choose_columns
from trialrun.images.shards.contents import ShardContents
from trialrun.images.shards.index import (
    ShardIndex,
    build_index,
    make_key,
    read_index,
    store_index,
)
from trialrun.images.shards.listing import ShardListing, find_index_file
from trialrun.images.shards.shard_cache import ShardCache
from trialrun.images.shards.storage import find_local_path
from trialrun.images.shards.tar_shards import GROUP_FIELD, LABEL_FIELD


def open_shards(
    listing: ShardListing,
    source: str,
    cache_folder: Path,
    *,
    group_column: str | None = None,
    config: DataConfig = DEFAULT_DATA_CONFIG,
) -> ImageSet:
    """Return the names and labels of the images in shards, from an index if one is stored.

    Raises:
        InvalidParameterError: No image has a column that a setting names.
        InvalidDatasetError: A shard is damaged, vanished or lists an image twice.
        StorageError: The store does not answer, or the cache has no room.
    """
    columns = choose_columns(config, group_column)
    cache = ShardCache(shards_folder(cache_folder), cache_limit_bytes())
    index, notes = _find_index(listing, columns, cache, cache_folder)
    items = index.items()
    _check_columns(items, columns, source)
    if columns.group is None:
        items = replace(items, groups=None)
    local = find_local_path(listing.shards[0].address)
    root = cache.folder if local is None else local.resolve().parent
    return ImageSet(
        source,
        root,
        items,
        index.classes,
        (*notes, *index.notes),
        class_order=index.classes or _order_numbers(items),
        follow_links=config.follow_links,
        shards=ShardContents(listing.address, index, cache),
    )


def _find_index(
    listing: ShardListing, columns: ColumnNames, cache: ShardCache, cache_folder: Path
) -> tuple[ShardIndex, tuple[str, ...]]:
    """Return the index beside the shards, the one in the cache, or a new one, and notes on it."""
    key = make_key(listing.shards, columns)
    notes: tuple[str, ...] = ()
    if _has_default_names(columns) and (file := find_index_file(listing)) is not None:
        with cache.hold(file) as path:
            index = read_index(path, listing.shards, key)
        if index is not None:
            return index, ()
        notes = (f"{file.address} does not fit the shards and is not used",)
    stored = scans_folder(cache_folder) / f"{key}.arrow"
    index = read_index(stored, listing.shards, key)
    if index is None:
        index = _build_stored_index(listing, columns, cache, stored)
    return index, notes


def _build_stored_index(
    listing: ShardListing, columns: ColumnNames, cache: ShardCache, stored: Path
) -> ShardIndex:
    """Read the headers of all shards; return the index from its file, which needs less memory."""
    import pyarrow as pa

    index = build_index(listing.shards, columns, cache, ignore_progress)
    store_index(index, stored)
    index = read_index(stored, listing.shards, index.key) or index  # the cache may have no room
    pa.default_memory_pool().release_unused()
    return index


def _has_default_names(columns: ColumnNames) -> bool:
    return (
        columns.file is None
        and columns.label in (None, LABEL_FIELD)
        and columns.group in (None, GROUP_FIELD)
    )


def _check_columns(items: ItemTable, columns: ColumnNames, source: str) -> None:
    for setting, name, is_found in (
        ("label_column", columns.label, (encode_labels(items).codes >= 0).any()),
        ("group_column", columns.group, items.groups is not None),
    ):
        if name is not None and not is_found:
            raise InvalidParameterError(
                f"{setting}={name}: no image in the shards of {source} has it",
                "Name a column of Parquet files, or a field of the .json files in tars.",
            )


def _order_numbers(items: ItemTable) -> tuple[str, ...]:
    """Return the labels in the order of their numbers if all are whole numbers, else nothing."""
    texts = encode_labels(items).texts
    if not all(text.isascii() and text.isdecimal() for text in texts):
        return ()
    return tuple(sorted(texts, key=int))
