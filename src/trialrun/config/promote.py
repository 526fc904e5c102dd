"""Settings of `trialrun promote`: the metric, the gates and their limits."""

import math
from dataclasses import dataclass

from trialrun.config.data import DataConfig
from trialrun.config.settings import (
    as_texts,
    device_setting,
    group_column_setting,
    group_pattern_setting,
    setting,
)
from trialrun.errors import InvalidParameterError

METRICS = ("accuracy", "macro_f1", "balanced_accuracy", "log_loss")
CHAMPION = "champion"
BETTER, _NOT_WORSE = "better", "not-worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteConfig(DataConfig):
    """Settings of a promotion; `build_config` builds and checks it."""

    alias: str = setting(
        CHAMPION,
        "Alias to move to the version.",
        # MLflow's own rule, checked before scoring; `previous` is moved by promotions themselves.
        pattern=r"(?!(?i:latest)$|[vV]\d+$|previous($|-))[A-Za-z0-9_-]+",
        pattern_help="letters, digits, - and _, but not latest, v1 or previous",
    )
    metric: str = setting(
        "accuracy", "Metric that compares the version with the champion.", choices=METRICS
    )
    require: str = setting(
        _NOT_WORSE,
        "Required result of the comparison: better (the interval of the difference is above 0) or "
        "not-worse (it is above minus the margin, also against the best earlier champion).",
        choices=(BETTER, _NOT_WORSE),
    )
    margin: float = setting(
        0.01, "How much lower (log_loss: higher) the metric may be with not-worse.", low=0
    )
    min: str | None = setting(
        None,
        "METRIC=VALUE: lowest accepted value of a metric, which the lower end of its interval must "
        "reach (log_loss: highest, upper end). For several metrics, repeat the flag or use commas. "
        "The first champion requires it.",
        repeats=True,
    )
    min_estimate: str | None = setting(
        None,
        "METRIC=VALUE: as min, but for the measured value, whatever its interval.",
        repeats=True,
    )
    min_coverage: float | None = setting(
        None,
        "Lowest accepted share of test images that a version with a threshold of confidence "
        "answers, which the lower end of its interval must reach.",
        low=0,
        high=1,
    )
    max_latency_ms: float | None = setting(
        None,
        "Highest accepted median time per image on this machine and device, in milliseconds.",
        low=0,
    )
    max_size_mb: float | None = setting(
        None, "Highest accepted size of the model directory, in megabytes (10^6 bytes).", low=0
    )
    max_class_drop: float | None = setting(
        None,
        "Largest accepted drop in the recall of any class, compared with the champion.",
        low=0,
        high=1,
    )
    min_class_images: int | None = setting(
        None,
        "Lowest accepted number of test images (with groups: of groups) of each class; none is the "
        "number that max_class_drop needs to notice a drop.",
        low=1,
    )
    baseline: str | None = setting(
        None,
        "Version (a number or @alias) that the version must not be worse than either; none is the "
        "earlier champion with the best recorded metric, for not-worse.",
    )
    group_column: str | None = group_column_setting("count as one observation")
    group_pattern: str | None = group_pattern_setting("count as one observation")
    allow_ungrouped: bool = setting(
        False,
        "Treat test images as independent even if a version was trained on grouped images or many "
        "test images look alike.",
    )
    allow_overlap: bool = setting(
        False,
        "Evaluate even if test images trained a version or chose its epoch or trial, or if that is "
        "unknown.",
    )
    allow_class_change: bool = setting(
        False,
        "Evaluate even if the classes differ; images of a class that a model lacks count as wrong.",
    )
    allow_model_code: bool = setting(
        False,
        "Run the code of versions registered with plain MLflow: loading them executes it.",
    )
    dry_run: bool = setting(False, "Judge the version, but do not move the alias.")
    confidence: float = setting(0.95, "Confidence level of the intervals.", low=0.5, lt=1)
    reason: str | None = setting(None, "Reason for the promotion, kept in the history.")
    device: str = device_setting(
        "Device to score on; auto is CUDA if available, else MPS, else the CPU."
    )
    experiment: str | None = setting(
        None, "MLflow experiment of the evaluation run; none is MLflow's default experiment."
    )
    run_name: str | None = setting(None, "MLflow run name; none lets MLflow generate one.")

    def __post_init__(self) -> None:
        self.minimums()  # raise for invalid settings before anything is scored
        self.estimate_minimums()

    def params(self) -> dict[str, str]:
        """Return the settings by name, as texts for MLflow parameters."""
        return as_texts(self)

    def minimums(self) -> dict[str, float]:
        """Parse `min` into bounds by metric.

        Raises:
            InvalidParameterError: Not METRIC=VALUE, an unknown metric, or the same metric twice.
        """
        return _parse_minimums("min", self.min)

    def estimate_minimums(self) -> dict[str, float]:
        """Parse `min_estimate` as `minimums` does."""
        return _parse_minimums("min_estimate", self.min_estimate)


def _parse_minimums(name: str, text: str | None) -> dict[str, float]:
    bounds: dict[str, float] = {}
    for part in filter(str.strip, (text or "").split(",")):
        metric, value = _parse_minimum(name, part)
        if metric in bounds:
            raise InvalidParameterError(
                f"{name} names {metric} twice", "Give each metric a single bound."
            )
        bounds[metric] = value
    return bounds


def _parse_minimum(name: str, part: str) -> tuple[str, float]:
    metric, _, text = part.partition("=")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if metric.strip() not in METRICS or not math.isfinite(value):
        raise InvalidParameterError(
            f"{name}={part.strip()} is not METRIC=VALUE",
            f"Write for example accuracy=0.9; the metrics are {', '.join(METRICS)}.",
        )
    return metric.strip(), value
