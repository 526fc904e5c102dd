"""Settings of `trialrun data split`, beside the data and the output folder."""

from dataclasses import dataclass

from trialrun.config.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """How a dataset is split; created by `build_config`, which checks the values."""

    fraction: float = setting(
        0.9, "Fraction of the images of each class that goes to OUT/train.", low=1e-6, lt=1
    )
    random_seed: int = setting(1, "Seed of the random choice of images.")
    group_column: str | None = setting(
        None,
        "Column of the image list, such as a patient; images with the same value go to the same "
        "side.",
    )
    group_pattern: str | None = setting(
        None,
        "Regular expression matched against image names; images with the same match (its first "
        "group, if it has one) go to the same side.",
    )
