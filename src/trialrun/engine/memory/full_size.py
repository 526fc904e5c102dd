"""Trial of a batch at the full image size before epochs of smaller images (progressive_resize)."""

from trialrun.config import AUTO_TEXT, TrainConfig
from trialrun.distributed import Ranks
from trialrun.engine.memory.dry_run import load_images, preserve_training
from trialrun.engine.state import TrainState
from trialrun.engine.step import TrainingStep


def check_full_size_fits(state: TrainState, config: TrainConfig, ranks: Ranks) -> None:
    """Compute the gradients of a full batch and drop them, if a later epoch has larger images.

    A GPU reports a lack of memory only when it occurs, which would be in the last epochs. On a CPU
    the forecast covers the full size, and with accumulate_steps=auto a batch that does not fit is
    computed in more parts whenever that occurs. All ranks call this.

    Raises:
        RuntimeError: The batch does not fit.
    """
    if state.compute.device.type == "cpu" or config.accumulate_steps == AUTO_TEXT:
        return
    if state.image_sizes is not None:
        try_full_batch(state, config, ranks)


def try_full_batch(state: TrainState, config: TrainConfig, ranks: Ranks) -> None:
    """Compute the gradients of a full batch at the full image size, and leave no trace of it.

    Raises:
        RuntimeError: The batch does not fit.
    """
    num_images = min(config.batch_size, len(state.data.train))
    with preserve_training(state):
        batch = load_images(state, num_images)
        step = TrainingStep(state, config, ranks, epoch=state.epoch + 1)
        step.compute_gradients(batch, num_images)
