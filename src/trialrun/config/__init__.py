"""Every setting, declared once: flags, help, ranges, MLproject and logged parameters follow."""

from trialrun.config.search import METRIC_DIRECTIONS, SearchConfig
from trialrun.config.settings import (
    AUTO_TEXT,
    NONE_TEXT,
    Knob,
    as_text,
    as_texts,
    from_values,
    knob,
    knobs,
)
from trialrun.config.train import TrainConfig

__all__ = [
    "AUTO_TEXT",
    "METRIC_DIRECTIONS",
    "NONE_TEXT",
    "Knob",
    "SearchConfig",
    "TrainConfig",
    "as_text",
    "as_texts",
    "from_values",
    "knob",
    "knobs",
]
