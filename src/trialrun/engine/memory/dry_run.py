"""Steps that measure memory and leave no trace in the training state."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from trialrun.engine.inputs.batches import Batch
from trialrun.engine.memory.accumulation import restore_buffers
from trialrun.engine.snapshot import capture_generators, restore_generators
from trialrun.engine.state import TrainState


@contextmanager
def preserve_training(state: TrainState) -> Iterator[None]:
    """Run a block in training mode; afterwards drop gradients, restore all else that steps change.

    Weights are not saved: the block must not change them.
    """
    generators = capture_generators(state.compute.device)
    buffers = [(buffer, buffer.clone()) for buffer in state.network.buffers()]
    optimizer_state = dict(state.optimizer.state)
    num_parts, was_training = state.num_parts, state.train_module.training
    state.set_training()
    try:
        yield
    finally:
        state.train_module.train(was_training)
        state.num_parts = num_parts
        state.optimizer.state.clear()
        state.optimizer.state.update(optimizer_state)
        state.optimizer.zero_grad()
        restore_buffers(buffers)
        restore_generators(generators, state.compute.device)


def load_images(state: TrainState, num_images: int) -> Batch:
    """Load the first training images, again from the first one if there are fewer."""
    positions = np.arange(num_images) % len(state.data.train)
    return state.data.train.load_batch(positions, num_images)
