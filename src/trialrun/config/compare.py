"""Settings of `trialrun compare`, except the runs."""

from dataclasses import dataclass

from trialrun.config.settings import group_column_setting, group_pattern_setting, setting

_EFFECT = "count as one observation when predictions are compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Settings of a comparison of runs; `build_config` builds and checks it."""

    group_column: str | None = group_column_setting(_EFFECT)
    group_pattern: str | None = group_pattern_setting(_EFFECT)
    confidence: float = setting(0.95, "Confidence level of the intervals.", low=0.5, lt=1)
