"""The objectives of a search."""

from typing import Any

import pytest

from trialrun.config import SearchConfig
from trialrun.errors import InvalidParameterError, TrialrunError
from trialrun.tuning.objectives import Objective, as_minimized, check_top5, parse_objectives

LOSS = Objective("valid_loss", "minimize")
ACCURACY = Objective("valid_accuracy", "maximize")


def parse(**settings: Any) -> tuple[tuple[Objective, ...], list[TrialrunError]]:
    """The objectives of a search, and the problems found."""
    problems: list[TrialrunError] = []
    return parse_objectives(SearchConfig(**settings), problems), problems


@pytest.mark.parametrize("direction", ["auto", "minimize,maximize", " Minimize , maximize"])
def test_direction_follows_the_metric_or_is_given_once_per_metric(direction: str) -> None:
    """Spaces and capitals do not matter."""
    assert parse(metric="valid_loss, valid_accuracy", direction=direction) == ((LOSS, ACCURACY), [])


def test_values_are_negated_where_higher_is_better() -> None:
    """After that, the lower value is better for each objective."""
    assert as_minimized([0.5, 0.9], (LOSS, ACCURACY)) == [0.5, -0.9]


@pytest.mark.parametrize(
    ("metric", "direction", "message"),
    [
        ("valid_loss,accuracy", "auto", "unknown metric accuracy"),
        ("valid_loss", "minimize,maximize", "direction=minimize,maximize does not match"),
        ("valid_loss", "down", "direction=down does not match"),
        ("valid_loss,valid_accuracy", "auto,auto", "direction=auto,auto does not match"),
    ],
)
def test_each_wrong_objective_is_one_problem(metric: str, direction: str, message: str) -> None:
    """The problem names the setting, and the number of objectives stays that of the metrics."""
    objectives, problems = parse(metric=metric, direction=direction)
    assert len(objectives) == len(metric.split(","))
    [problem] = problems
    assert message in str(problem)


def test_top5_needs_five_classes() -> None:
    """With four, every image would be in the top 5."""
    top5 = Objective("valid_top5_accuracy", "maximize")
    check_top5([LOSS], 2)
    check_top5([LOSS, top5], 5)
    with pytest.raises(InvalidParameterError, match="needs 5 classes, and there are 4"):
        check_top5([LOSS, top5], 4)
