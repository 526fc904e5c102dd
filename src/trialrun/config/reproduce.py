"""Settings of a reproduction, beside the run."""

from dataclasses import dataclass

from trialrun.config.settings import device_setting, present_data_setting, setting

DEFAULT_TOLERANCE = 1e-3  # of a metric's value; two CPUs differ by about 1e-5 per epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceConfig:
    """How a repetition finds its inputs, and how close it must come to the original.

    `build_config` creates it and checks the values.
    """

    train_data: str | None = present_data_setting("training")
    valid_data: str | None = present_data_setting("validation")
    device: str | None = device_setting(
        "Device to train on; none is the recorded setting.", default=None
    )
    tolerance: float = setting(
        DEFAULT_TOLERANCE,
        "Largest relative deviation of a metric that counts as the same result.",
        low=0,
    )
    allow_changed_data: bool = setting(
        False,
        "Train even if the images, the model, the weights or the transforms differ from those of "
        "the original run.",
    )
