"""The settings of bulk scoring, beside the model, the data and the output."""

from dataclasses import dataclass

from trialrun.config.settings import device_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """How images are scored; build it with `from_values`, which checks it."""

    device: str = device_setting("Where to score; auto is CUDA, else MPS, else the CPU.")
