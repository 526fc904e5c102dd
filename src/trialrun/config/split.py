"""Settings of `trialrun data split`, beside the data and the output folder."""

from dataclasses import dataclass

from trialrun.config.data import LabelConfig
from trialrun.config.settings import (
    group_column_setting,
    group_pattern_setting,
    setting,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig(LabelConfig):
    """How a dataset is split; created by `build_config`, which checks the values."""

    fraction: float = setting(
        0.9, "Fraction of the images of each class that goes to OUT/train.", low=1e-6, lt=1
    )
    random_seed: int = setting(1, "Seed of the random choice of images.")
    group_column: str | None = group_column_setting("go to the same side")
    group_pattern: str | None = group_pattern_setting("go to the same side")
