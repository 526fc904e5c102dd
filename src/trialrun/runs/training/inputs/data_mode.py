"""Decoding of images once into the cache, or in every epoch (the setting data_mode)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trialrun.cache.eviction import CacheEntry
from trialrun.cache.location import cache_folder, cache_limit_bytes, decoded_folder, shards_folder
from trialrun.engine.inputs.batches import ImageDataset
from trialrun.engine.inputs.stream_order import NUM_LANES, Sharding, count_uniform_shards
from trialrun.errors import StorageError
from trialrun.image_cache import DecodedImages, OnTheFlyImages, open_live, open_pack
from trialrun.image_cache.entries import list_evictable
from trialrun.image_cache.inventory import list_evictable_archives
from trialrun.image_cache.stream import StreamedImages
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.items import ItemTable
from trialrun.images.scanning.scan import DatasetScan
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.images.shards.contents import ShardContents
from trialrun.images.shards.shard_cache import ShardCache
from trialrun.images.shards.storage import ShardFile
from trialrun.runs.callbacks import RunCallback

CACHE, STREAM = "cache", "stream"


def open_decoded(
    scan: DatasetScan, preprocessing: Preprocessing, data_mode: str, callback: RunCallback
) -> DecodedImages:
    """Return the decoded images of a set, from the cache or decoded as they are needed.

    Raises:
        StorageError: `data_mode` is cache, and the decoded images do not fit into it.
    """
    if data_mode == STREAM:
        return open_live(
            scan,
            preprocessing,
            decoded_folder(),
            threads=count_threads(),
            limit_bytes=cache_limit_bytes(),
            progress=callback.on_scan_progress,
            note=callback.on_note,
            other_entries=list_evictable_archives,
        )
    decoded = open_pack(
        scan,
        preprocessing,
        decoded_folder(),
        threads=count_threads(),
        limit_bytes=cache_limit_bytes(),
        progress=callback.on_scan_progress,
        note=callback.on_note,
        other_entries=list_evictable_archives,
    )
    if data_mode == CACHE and resolve_mode(decoded) == STREAM:
        raise StorageError(
            f"data_mode=cache: the decoded images of {scan.images.source} could not be cached",
            "Raise TRIALRUN_CACHE_GB, free some disk space, or set data_mode=auto.",
        )
    return decoded


def resolve_mode(decoded: DecodedImages) -> str:
    """Return `cache` or `stream`, as the images of a set are read."""
    return STREAM if isinstance(decoded, OnTheFlyImages | StreamedImages) else CACHE


def describe_modes(train: DecodedImages, valid: DecodedImages) -> str:
    """Return how both sets are read, as text for the parameter resolved_data_mode."""
    modes = resolve_mode(train), resolve_mode(valid)
    return modes[0] if modes[0] == modes[1] else f"train={modes[0]}; valid={modes[1]}"


def describe_stream(scan: DatasetScan, num_usable: int) -> str:
    """Return a note on the images that each epoch reads."""
    num_skipped = len(scan.files) - num_usable
    return (
        f"{scan.images.source}: each epoch reads and decodes {num_usable} images, each once, and "
        f"skips {num_skipped} that cannot be read"
    )


def open_shard_cache(callback: RunCallback) -> ShardCache:
    """Return the cache of downloaded shards, within the limit of the whole cache."""
    return ShardCache(
        shards_folder(cache_folder()),
        cache_limit_bytes(),
        callback.on_note,
        other_entries=_list_other_entries,
    )


def _list_other_entries() -> list[CacheEntry]:
    return [*list_evictable(decoded_folder()), *list_evictable_archives(has_shards=False)]


def order_by_shards(
    scan: DatasetScan, dataset: ImageDataset, decoded: DecodedImages
) -> ImageDataset:
    """Return a set that is decoded live in the order of its shards; any other set unchanged."""
    contents, items = scan.images.shards, scan.images.items
    if resolve_mode(decoded) == CACHE or not isinstance(contents, ShardContents):
        return dataset
    assert isinstance(items, ItemTable)
    numbers = contents.find_shards(items.rows)
    return stream_dataset(dataset, decoded, contents.shards, numbers, contents.cache)


def stream_dataset(
    dataset: ImageDataset,
    decoded: DecodedImages,
    shards: Sequence[ShardFile],
    shard_numbers: NDArray[np.integer],
    cache: ShardCache,
) -> ImageDataset:
    """Return a set of live images in the order of its shards, which `cache` holds when needed.

    `shard_numbers`, (N,), are the shards of all rows of `decoded`, which reads through `cache`.
    """
    source = StreamedImages(decoded, shards, shard_numbers, cache)
    sharding = Sharding(shard_numbers[dataset.rows], source.prefetch)
    return replace(dataset, source=source, sharding=sharding)


def find_uniform_shards(source: str, dataset: ImageDataset) -> str | None:
    """Return a note if the shards of a set are sorted by class, so that it trains badly."""
    if dataset.sharding is None:
        return None
    num_uniform, num_sampled = count_uniform_shards(dataset.labels, dataset.sharding.numbers)
    if num_uniform * 2 <= num_sampled:
        return None
    return (
        f"{source}: {num_uniform} of {num_sampled} sampled shards hold images of almost one class "
        f"only: a batch mixes {NUM_LANES} shards, and training forgets the classes of the others; "
        "`trialrun data shard` writes shuffled shards"
    )
