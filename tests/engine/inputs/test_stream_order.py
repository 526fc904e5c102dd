"""The order of an epoch that reads shards: each image once, and few shards per rank at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trialrun.engine.inputs.stream_order import (
    NUM_LANES,
    Sharding,
    draw_stream_order,
    open_stream_order,
)

_SHARD_SIZES = st.lists(st.integers(1, 40), min_size=0, max_size=30)


@given(_SHARD_SIZES, st.integers(0, 9), st.integers(1, 9), st.booleans())
@settings(max_examples=60)
def test_an_epoch_has_each_image_once(
    sizes: list[int], seed: int, epoch: int, is_mixed: bool
) -> None:
    """Whatever the sizes and the order of the shards, the order is a permutation of the images."""
    shards = np.repeat(np.arange(len(sizes)), sizes)
    if is_mixed:
        shards = np.random.default_rng(seed).permutation(shards)
    order = draw_stream_order(shards, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(shards)))


def test_orders_differ_by_seed_and_epoch_and_are_repeatable() -> None:
    """The same seed and epoch give the same order; another one gives another order."""
    shards = np.repeat(np.arange(10), 50)
    first = draw_stream_order(shards, 1, 1).tolist()
    assert first == draw_stream_order(shards, 1, 1).tolist()
    assert first != draw_stream_order(shards, 1, 2).tolist()
    assert first != draw_stream_order(shards, 2, 1).tolist()


@given(_SHARD_SIZES, st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=60)
def test_any_slice_is_that_of_the_whole_order(sizes: list[int], start: int, stop: int) -> None:
    """A resumed epoch reads the rest of the order without computing what came before."""
    shards = np.repeat(np.arange(len(sizes)), sizes)
    part = open_stream_order(shards, 3, 2)[start:stop]
    assert part.tolist() == draw_stream_order(shards, 3, 2)[start:stop].tolist()


@pytest.mark.parametrize("world_size", [2, 8, 64])
def test_ranks_read_their_own_shards(world_size: int) -> None:
    """A rank reads its share of the shards, plus at most the shards at the ends of its lanes."""
    num_shards, size = 1024, 20
    order = draw_stream_order(np.repeat(np.arange(num_shards), size), 1, 1)
    for rank in range(world_size):
        shards = np.unique(order[rank::world_size] // size)
        at_ends = NUM_LANES // world_size
        assert len(shards) <= num_shards / world_size + at_ends


def test_few_shards_are_read_at_once() -> None:
    """Any run of images touches at most two shards per lane, of hundreds of shards."""
    num_shards, size = 1024, 64
    order = draw_stream_order(np.repeat(np.arange(num_shards), size), 1, 1)
    for start in range(0, len(order), 5000):
        step = order[start : start + 8 * NUM_LANES]
        assert len(np.unique(step // size)) <= 2 * NUM_LANES
    open_at_once = [len(np.unique(order[p : p + 640] // size)) for p in range(0, len(order), 640)]
    assert np.median(open_at_once) <= 1.3 * NUM_LANES


def test_a_batch_of_mixed_shards_has_all_classes() -> None:
    """With shards in random order of classes, batches mix as well as after a full shuffle."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 64_000)
    order = draw_stream_order(np.arange(64_000) // 250, 1, 1)
    fully_shuffled = _mean_entropy(labels[random.permutation(64_000)])
    assert abs(_mean_entropy(labels[order]) - fully_shuffled) < 0.01


def _mean_entropy(labels: NDArray[np.int64], batch_size: int = 64) -> float:
    """Return the mean entropy, in bits, of the labels of a batch."""
    counts = np.stack([np.bincount(b, minlength=10) for b in labels.reshape(-1, batch_size)])
    shares = counts / batch_size
    logs = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
    return float(-(shares * logs).sum(axis=1).mean())


@pytest.mark.parametrize("world_size", [1, 16, 64])
def test_a_rank_announces_its_next_shards_in_time(world_size: int) -> None:
    """A shard is announced at least a third of a shard, and about four per rank, ahead."""
    size = 60
    numbers = np.repeat(np.arange(640), size)
    order = draw_stream_order(numbers, 1, 1)
    distances = Sharding(numbers, lambda _numbers: None).list_distances(world_size)
    announced: set[int] = set()
    num_ahead = []
    for start in range(0, len(order) // 2, NUM_LANES):
        own = [order[start + d : start + d + NUM_LANES : world_size] for d in [0, *distances]]
        if start > distances[-1]:
            assert set(numbers[own[0]].tolist()) <= announced
        announced |= set(numbers[np.concatenate(own[1:])].tolist())
        num_ahead.append(len(set(numbers[np.concatenate(own)].tolist())))
    assert max(num_ahead) <= 2 * (NUM_LANES // world_size) + 6
