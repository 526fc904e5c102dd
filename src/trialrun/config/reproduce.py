"""Settings of a reproduction, beside the run."""

from dataclasses import dataclass

from trialrun.config.settings import setting

DEFAULT_TOLERANCE = 1e-3  # of a metric's value; two CPUs differ by about 1e-5 per epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceConfig:
    """How close a repetition must come; created by `build_config`, which checks the values."""

    tolerance: float = setting(
        DEFAULT_TOLERANCE,
        "Largest relative deviation of a metric that counts as the same result.",
        low=0,
    )
    allow_changed_data: bool = setting(
        False, "Train even if the images differ from those of the original run."
    )
