"""Settings of `trialrun evaluate` and `compare`, except the models, the data and the runs."""

from dataclasses import dataclass

from trialrun.config.data import DataConfig
from trialrun.config.settings import (
    SMALLEST_POSITIVE_DOUBLE,
    as_texts,
    device_setting,
    group_column_setting,
    group_pattern_setting,
    setting,
    sha256_setting,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig(DataConfig):
    """Settings of an evaluation; `build_config` builds and checks it."""

    confidence: float = setting(0.95, "Confidence level of the intervals.", low=0.5, lt=1)
    group_column: str | None = group_column_setting("count as one observation")
    group_pattern: str | None = group_pattern_setting("count as one observation")
    report: bool = setting(
        True, "Store a report with pictures and tables among the artifacts of the run."
    )
    audit: bool = setting(
        False,
        "Add images to the report whose label is probably wrong; needs the extra [audit].",
    )
    abstain: float | None = setting(
        None,
        "Register a version that answers `unknown` below a threshold of confidence, which DATA "
        "gives: at most this share of the other answers is wrong, with the level confidence.",
        low=SMALLEST_POSITIVE_DOUBLE,
        lt=1,
    )
    register: str | None = setting(
        None,
        "Registered model that gets the version of abstain; none is that of MODEL.",
    )
    allow_overlap: bool = setting(
        False,
        "With abstain: use DATA even if its images trained the model or chose its epoch or trial, "
        "or if that is unknown.",
    )
    allow_model_code: bool = setting(
        False,
        "Run the code of a model that was logged with plain MLflow: loading it executes it.",
    )
    sha256: str | None = sha256_setting()
    device: str = device_setting(
        "Device to score on; auto is CUDA if available, else MPS, else the CPU."
    )
    experiment: str | None = setting(
        None, "MLflow experiment of the evaluation run; none is MLflow's default experiment."
    )
    run_name: str | None = setting(None, "MLflow run name; none lets MLflow generate one.")

    def params(self) -> dict[str, str]:
        """Return the settings by name, as texts for MLflow parameters."""
        return as_texts(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Settings of a comparison of runs; `build_config` builds and checks it."""

    group_column: str | None = group_column_setting("count as one observation")
    group_pattern: str | None = group_pattern_setting("count as one observation")
    confidence: float = setting(0.95, "Confidence level of the intervals.", low=0.5, lt=1)
