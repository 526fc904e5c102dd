"""What a version must show."""

from dataclasses import replace

import pytest

from trialrun.config import build_config
from trialrun.config.promote import METRICS, PromoteConfig
from trialrun.errors import InvalidParameterError
from trialrun.registry.gates import Evidence, Overlap, evaluate_gates
from trialrun.report.paired import PairedComparison

COMPARISON = PairedComparison(
    metric="accuracy",
    num_images=1000,
    baseline=0.90,
    challenger=0.93,
    difference=0.03,
    low=0.01,
    high=0.05,
    only_baseline_right=10,
    only_challenger_right=40,
    mcnemar_p=0.0001,
)
GOOD = Evidence(
    metrics={"accuracy": 0.93, "macro_f1": 0.9, "balanced_accuracy": 0.9, "log_loss": 0.2},
    size_mb=44,
    latency_ms=12,
    overlaps=(Overlap("version 2", 0), Overlap("version 1", 0)),
    comparison=COMPARISON,
    recall={"cat": 0.95, "dog": 0.90},
    champion_recall={"cat": 0.94, "dog": 0.96},
)


def failing(evidence: Evidence, **settings: object) -> list[str]:
    """The names of the gates that refuse."""
    return [
        gate.name for gate in evaluate_gates(build_config(PromoteConfig, settings), evidence).failed
    ]


def test_a_better_version_passes() -> None:
    """Nothing stands in the way of one that is better, under either requirement."""
    assert failing(GOOD) == []
    assert failing(GOOD, require="better") == []


@pytest.mark.parametrize(
    ("low", "require", "passes"),
    [
        (0.001, "better", True),
        (0.0, "better", False),
        (-0.009, "better", False),
        (-0.009, "not-worse", True),
        (-0.011, "not-worse", False),
    ],
)
def test_the_interval_decides(low: float, require: str, passes: bool) -> None:
    """Better is above 0, not-worse above minus 0.01."""
    evidence = replace(GOOD, comparison=replace(COMPARISON, low=low))
    assert (failing(evidence, require=require) == []) is passes


def test_a_handful_of_images_is_no_evidence() -> None:
    """Four images against none make an interval above 0; the exact test refuses them."""
    few = replace(COMPARISON, only_baseline_right=0, only_challenger_right=4, mcnemar_p=0.125)
    assert failing(replace(GOOD, comparison=few), require="better") == ["McNemar's exact test"]


def test_every_failing_gate_is_told() -> None:
    """Not only the first."""
    bad = replace(
        GOOD,
        comparison=replace(COMPARISON, low=-0.2),
        overlaps=(Overlap("version 2", 3), Overlap("version 1", None)),
        class_differences=("only the challenger knows: owl",),
    )
    names = failing(
        bad,
        min="accuracy=0.99,log_loss=0.1,macro_f1=0.5",
        max_latency_ms=5,
        max_size_mb=10,
        max_class_drop=0.05,
    )
    assert names == [
        "accuracy not-worse",
        "accuracy",
        "log_loss",
        "recall of each class",
        "latency",
        "size",
        "classes",
        "test images that version 2 was trained on",
        "test images that version 1 was trained on",
    ]


def test_overlap_and_classes_can_be_allowed() -> None:
    """By an option each."""
    bad = replace(GOOD, overlaps=(Overlap("version 2", 3),), class_differences=("some",))
    assert failing(bad, allow_overlap=True, allow_class_change=True) == []


def test_the_first_champion_needs_a_minimum() -> None:
    """Without a champion to compare with, a minimum is all that speaks for a version."""
    first = replace(GOOD, comparison=None, champion_recall={})
    assert failing(first) == ["minimum"]
    assert failing(first, min="accuracy=0.9") == []
    assert failing(first, min="accuracy=0.95") == ["accuracy"]


def test_class_guard_names_the_class() -> None:
    """A class that lost more recall than allowed is named."""
    verdict = evaluate_gates(PromoteConfig(max_class_drop=0.05), GOOD)
    assert "dog -0.0600" in verdict.failed[0].found


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy"])
def test_mcnemar_is_asked_for_every_metric_that_counts(metric: str) -> None:
    """Few images make too narrow an interval by whatever is made of their counts."""
    few = replace(COMPARISON, only_baseline_right=0, only_challenger_right=4, mcnemar_p=0.125)
    found = failing(replace(GOOD, comparison=few), require="better", metric=metric)
    assert found == ["McNemar's exact test"]


def test_an_uneven_split_for_the_champion_is_no_gain() -> None:
    """A small p speaks for the challenger only where it is right on more images."""
    worse = replace(COMPARISON, only_baseline_right=40, only_challenger_right=10)
    found = failing(replace(GOOD, comparison=worse), require="better", metric="macro_f1")
    assert found == ["McNemar's exact test"]


NO_DISAGREEMENT = replace(
    COMPARISON, difference=0, low=0, only_baseline_right=0, only_challenger_right=0, mcnemar_p=1
)


@pytest.mark.parametrize("metric", METRICS)
def test_a_set_too_small_to_differ_is_no_evidence(metric: str) -> None:
    """Three images answered alike make an interval without width, which shows nothing."""
    evidence = replace(GOOD, comparison=replace(NO_DISAGREEMENT, num_images=3))
    assert failing(evidence, metric=metric) == ["enough images"]


def test_a_large_set_without_disagreement_is_evidence() -> None:
    """A thousand images answered alike leave no room for a hundredth."""
    assert failing(replace(GOOD, comparison=NO_DISAGREEMENT)) == []


def test_it_is_told_how_many_images_would_do() -> None:
    """For a hundredth and no disagreement z^2 (1 / 0.01 - 1), 381; for a worse one none would."""
    few = replace(NO_DISAGREEMENT, num_images=150)
    assert evaluate_gates(PromoteConfig(), replace(GOOD, comparison=few)).images_needed == 390
    worse = replace(few, difference=-0.02, low=-0.03, only_baseline_right=3)
    assert evaluate_gates(PromoteConfig(), replace(GOOD, comparison=worse)).images_needed is None
    assert evaluate_gates(PromoteConfig(), GOOD).images_needed is None


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V22", "my alias", "a/b", "größe"])
def test_an_alias_that_mlflow_refuses_is_told_at_once(alias: str) -> None:
    """Before anything is scored, and before a turn is taken for it."""
    with pytest.raises(InvalidParameterError, match="alias="):
        build_config(PromoteConfig, {"alias": alias})


@pytest.mark.parametrize("alias", ["champion", "v1-best", "latest_2", "7"])
def test_an_alias_that_mlflow_takes_is_taken(alias: str) -> None:
    """What only begins like a reserved word is none."""
    assert build_config(PromoteConfig, {"alias": alias}).alias == alias


def test_a_metric_has_one_minimum() -> None:
    """Which of two would count is not for us to guess."""
    with pytest.raises(InvalidParameterError, match="accuracy twice"):
        build_config(PromoteConfig, {"min": "accuracy=0.9,accuracy=0.1"})


@pytest.mark.parametrize(
    "text", ["accuracy", "speed=1", "accuracy=high", "=0.5", "accuracy=nan", "accuracy=inf"]
)
def test_bad_minimum_is_told(text: str) -> None:
    """A minimum that is not METRIC=VALUE is a wrong parameter."""
    with pytest.raises(InvalidParameterError, match="METRIC=VALUE"):
        build_config(PromoteConfig, {"min": text}).minimums()


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_can_be_a_minimum(metric: str) -> None:
    """The names that --metric takes are those that --min takes."""
    assert build_config(PromoteConfig, {"min": f"{metric}=0.5"}).minimums() == {metric: 0.5}
