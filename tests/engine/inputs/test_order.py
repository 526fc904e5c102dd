"""The images of an epoch, drawn in balance or each once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.conftest import make_dataset
from trialrun.distributed import Ranks
from trialrun.engine.inputs.batches import training_batches
from trialrun.engine.inputs.order import draw_order

BALANCED = "balanced"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 50))
@settings(max_examples=100)
def test_balanced_epochs_draw_each_class_equally_often(labels: list[int], epoch: int) -> None:
    """Counts differ by at most one, and no image is repeated before its class was drawn."""
    classes = np.array(labels, dtype=np.int64)
    order = draw_order(classes, 7, epoch, BALANCED)
    assert len(order) == len(set(order.tolist())) == len(classes)
    counts = np.bincount(classes[order % len(classes)])[np.unique(classes)]
    assert counts.max() - counts.min() <= 1
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number)
        drawn = np.bincount(order % len(classes), minlength=len(classes))[members]
        assert drawn.max() - drawn.min() <= 1


def test_balanced_epochs_differ_and_repeat_by_seed() -> None:
    """The same seed and epoch give the same images; another epoch gives others."""
    labels = np.array([0] * 30 + [1] * 3, dtype=np.int64)
    first = draw_order(labels, 1, 1, BALANCED).tolist()
    assert first == draw_order(labels, 1, 1, BALANCED).tolist()
    assert first != draw_order(labels, 1, 2, BALANCED).tolist()
    assert first != draw_order(labels, 2, 1, BALANCED).tolist()


@pytest.mark.parametrize("world_size", [1, 3])
def test_ranks_and_resumed_epochs_share_the_order(world_size: int) -> None:
    """The shares of all ranks, from any step on, are the steps of the whole epoch."""
    data = make_dataset(31)
    order = draw_order(data.labels, 1, 2, BALANCED)
    steps: list[list[int]] = []
    for rank in range(world_size):
        batches = training_batches(
            data,
            epoch=2,
            batch_size=4,
            random_seed=1,
            ranks=Ranks(rank, world_size),
            first_step=1,
            class_sampling=BALANCED,
        )
        for number, batch in enumerate(batches):
            steps += [[]] if len(steps) <= number else []
            steps[number] += batch.positions.tolist()
            assert (data.labels[batch.positions % 31] == batch.labels.numpy()).all()
    assert sorted(itertools.chain(*steps)) == sorted(order[4 * world_size :].tolist())
