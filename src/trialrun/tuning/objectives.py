"""The objectives of a search: the metrics that rank trials, and their directions."""

from collections.abc import Sequence
from dataclasses import dataclass

from trialrun.config import AUTO_TEXT, METRIC_DIRECTIONS, MIN_CLASSES_FOR_TOP5, SearchConfig
from trialrun.errors import InvalidParameterError, TrialrunError


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric and its direction, `minimize` or `maximize`."""

    metric: str
    direction: str

    @property
    def sign(self) -> int:
        """The factor that makes lower values better: 1 or -1."""
        return 1 if self.direction == "minimize" else -1


def as_minimized(values: Sequence[float], objectives: Sequence[Objective]) -> list[float]:
    """Return a trial's values with their signs set so that lower is better."""
    return [objective.sign * value for objective, value in zip(objectives, values, strict=True)]


def parse_objectives(config: SearchConfig, problems: list[TrialrunError]) -> tuple[Objective, ...]:
    """Return the objectives of `config`; append errors to `problems`."""
    metrics = [name.strip() for name in config.metric.split(",")]
    directions = [word.strip().lower() for word in config.direction.split(",")]
    if directions == [AUTO_TEXT]:
        directions = [METRIC_DIRECTIONS.get(name, "minimize") for name in metrics]
    if unknown := [name for name in metrics if name not in METRIC_DIRECTIONS]:
        problems.append(
            InvalidParameterError(
                f"unknown metric {', '.join(unknown)}",
                f"The metrics are: {', '.join(METRIC_DIRECTIONS)}.",
            )
        )
    if len(directions) != len(metrics) or not set(directions) <= {"minimize", "maximize"}:
        problems.append(
            InvalidParameterError(
                f"direction={config.direction} does not match metric={config.metric}",
                "Give auto, or minimize or maximize once per metric.",
            )
        )
        directions = ["minimize"] * len(metrics)
    return tuple(Objective(*pair) for pair in zip(metrics, directions, strict=True))


def check_top5(objectives: Sequence[Objective], num_classes: int) -> None:
    """Check that the data has enough classes for a top-5 metric.

    Raises:
        InvalidParameterError: It has too few.
    """
    uses_top5 = any("top5" in objective.metric for objective in objectives)
    if uses_top5 and num_classes < MIN_CLASSES_FOR_TOP5:
        raise InvalidParameterError(
            f"valid_top5_accuracy needs {MIN_CLASSES_FOR_TOP5} classes, "
            f"and there are {num_classes}",
            "Use valid_accuracy.",
        )
