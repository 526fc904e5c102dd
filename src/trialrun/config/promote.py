"""The settings of a promotion: by what a version is judged, and how well it must do."""

import math
from dataclasses import dataclass

from trialrun.config.settings import as_texts, device_setting, setting
from trialrun.errors import InvalidParameterError

METRICS = ("accuracy", "macro_f1", "balanced_accuracy", "log_loss")
CHAMPION = "champion"
BETTER, _NOT_WORSE = "better", "not-worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteConfig:
    """What a version must show to take an alias; build it with `from_values`, which checks it."""

    alias: str = setting(
        CHAMPION,
        "The alias to move.",
        # As MLflow, which asks only when it moves; `previous` is what a promotion moves besides.
        pattern=r"(?!(?i:latest)$|[vV]\d+$|previous($|-))[A-Za-z0-9_-]+",
        pattern_help="letters, digits, - and _, but not latest, v1 or previous",
    )
    metric: str = setting(
        "accuracy", "What challenger and champion are compared by.", choices=METRICS
    )
    require: str = setting(
        _NOT_WORSE,
        "better wants the difference's interval above 0, not-worse above minus the margin.",
        choices=(BETTER, _NOT_WORSE),
    )
    margin: float = setting(0.01, "How much worse not-worse allows.", low=0)
    min: str | None = setting(
        None,
        "METRIC=VALUE that the challenger must reach (for log_loss: stay below); several with "
        "commas. The first champion needs one.",
        repeats=True,
    )
    max_latency_ms: float | None = setting(
        None, "Milliseconds one image may take on this machine and device (median).", low=0
    )
    max_size_mb: float | None = setting(
        None, "Megabytes (10^6 bytes) the model's folder may have.", low=0
    )
    max_class_drop: float | None = setting(
        None, "How far the recall of any class may fall below the champion's.", low=0, high=1
    )
    allow_overlap: bool = setting(
        False, "Judge although test images were trained on, or although nobody can tell."
    )
    allow_class_change: bool = setting(
        False,
        "Judge although the classes differ; images of a class that a model lacks count as wrong.",
    )
    confidence: float = setting(0.95, "Share of the draws that an interval holds.", low=0.5, lt=1)
    draws: int = setting(10_000, "Bootstrap draws.", low=100, high=1_000_000)
    random_seed: int = setting(1, "Decides the bootstrap draws.")
    reason: str | None = setting(None, "Why, in words, for the history.")
    device: str = device_setting("Where to score; auto is CUDA, else MPS, else the CPU.")
    experiment: str | None = setting(
        None, "MLflow experiment of the evaluation; none takes MLflow's own default."
    )
    run_name: str | None = setting(None, "MLflow run name; none lets MLflow draw one.")

    def __post_init__(self) -> None:
        self.minimums()  # a bad one is told before anything is scored

    def params(self) -> dict[str, str]:
        """Name to text, as MLflow stores parameters."""
        return as_texts(self)

    def minimums(self) -> dict[str, float]:
        """What `min` asks, by metric.

        Raises:
            InvalidParameterError: Not METRIC=VALUE, no such metric, or one twice.
        """
        asked: dict[str, float] = {}
        for part in filter(str.strip, (self.min or "").split(",")):
            metric, value = _parse_minimum(part)
            if metric in asked:
                raise InvalidParameterError(
                    f"min asks {metric} twice", "Give each metric one bound, the one that counts."
                )
            asked[metric] = value
        return asked


def _parse_minimum(part: str) -> tuple[str, float]:
    metric, _, text = part.partition("=")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if metric.strip() not in METRICS or not math.isfinite(value):
        raise InvalidParameterError(
            f"min={part.strip()} is not METRIC=VALUE",
            f"Write accuracy=0.9, say; the metrics are {', '.join(METRICS)}.",
        )
    return metric.strip(), value
