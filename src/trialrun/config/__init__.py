"""Declarations of all settings: the source of flags, help texts, MLproject and run parameters."""

from trialrun.config.search import METRIC_DIRECTIONS, SearchConfig
from trialrun.config.settings import (
    AUTO_TEXT,
    NONE_TEXT,
    Setting,
    as_text,
    as_texts,
    build_config,
    list_settings,
    setting,
)
from trialrun.config.train import TrainConfig

__all__ = [
    "AUTO_TEXT",
    "METRIC_DIRECTIONS",
    "NONE_TEXT",
    "SearchConfig",
    "Setting",
    "TrainConfig",
    "as_text",
    "as_texts",
    "build_config",
    "list_settings",
    "setting",
]
