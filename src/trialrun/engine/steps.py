"""The numbers of steps and epochs of a run and its parts; this module does not import torch."""

from trialrun.config import AUTO_TEXT, TrainConfig
from trialrun.errors import InvalidParameterError

ONE_CYCLE = "onecycle"
_ONE_CYCLE_WARM_UP = 0.3  # of the run, as in torch's OneCycleLR


def count_batches(num_images: int, batch_size: int, smallest: int = 2) -> int:
    """Return the number of chunks that `inputs.batches.chunk_indices` makes."""
    num_full, rest = divmod(num_images, batch_size)
    return num_full + (rest >= min(smallest, batch_size) or (rest > 0 and num_full == 0))


def count_steps_per_epoch(config: TrainConfig, num_images: int, world_size: int = 1) -> int:
    """Return the optimizer steps of one pass over `num_images` by `world_size` ranks."""
    return count_batches(num_images, config.batch_size * world_size, 2 * world_size)


def count_warm_up_steps(config: TrainConfig, num_images: int, world_size: int = 1) -> int:
    """Return the steps over which the learning rate rises, as the setting of their length says.

    Epochs and fractions are rounded to whole steps; any part is at least one step.

    Raises:
        InvalidParameterError: The warm-up is as long as the run, or longer.
    """
    per_epoch = count_steps_per_epoch(config, num_images, world_size)
    num_steps = config.epochs * per_epoch
    warm_up = config.warmup_steps
    if config.warmup_epochs:
        # Limited to the run: 1e308 epochs times the steps per epoch would be infinite.
        warm_up = max(round(min(config.warmup_epochs, config.epochs) * per_epoch), 1)
    if fraction := _choose_warm_up_fraction(config):
        warm_up = max(min(round(fraction * num_steps), num_steps - 1), min(num_steps - 1, 1))
    if warm_up < num_steps:
        return warm_up
    name = "warmup_steps" if config.warmup_steps else "warmup_epochs"
    limit = num_steps if config.warmup_steps else config.epochs
    raise InvalidParameterError(
        f"{name}={getattr(config, name):g} is not shorter than the run "
        f"({config.epochs} epochs of {per_epoch} steps)",
        f"Set {name} below {limit}, or train for more epochs.",
    )


def _choose_warm_up_fraction(config: TrainConfig) -> float:
    """Return the warm-up as a fraction of the run; 0 if another setting gives its length."""
    if config.schedule == ONE_CYCLE and not config.warmup_steps and not config.warmup_epochs:
        return config.warmup_fraction or _ONE_CYCLE_WARM_UP
    return config.warmup_fraction


def count_frozen_epochs(config: TrainConfig) -> int:
    """Return the number of first epochs in which only the last layer trains."""
    if config.freeze == "backbone":
        return config.epochs
    if config.freeze_epochs == AUTO_TEXT:  # resolved by the session, which knows the weights
        return 0
    return min(int(config.freeze_epochs), config.epochs)
