"""Declarations of all settings: the source of flags, help texts, MLproject and run parameters."""

from trialrun.config.search import METRIC_DIRECTIONS, MIN_CLASSES_FOR_TOP5, SearchConfig
from trialrun.config.settings import (
    AUTO_TEXT,
    NONE_TEXT,
    Setting,
    as_text,
    as_texts,
    build_config,
    list_settings,
    list_values,
    setting,
)
from trialrun.config.train import TrainConfig

__all__ = [
    "AUTO_TEXT",
    "METRIC_DIRECTIONS",
    "MIN_CLASSES_FOR_TOP5",
    "NONE_TEXT",
    "SearchConfig",
    "Setting",
    "TrainConfig",
    "as_text",
    "as_texts",
    "build_config",
    "list_settings",
    "list_values",
    "setting",
]
