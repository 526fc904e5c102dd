"""Tests of the promotion gates."""

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
    """Return the names of the failed gates."""
    return [
        gate.name for gate in evaluate_gates(build_config(PromoteConfig, settings), evidence).failed
    ]


def test_better_version_passes() -> None:
    """A better version passes all gates under either requirement."""
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
def test_interval_decides(low: float, require: str, passes: bool) -> None:
    """`better` needs an interval above 0, `not-worse` one above -0.01."""
    evidence = replace(GOOD, comparison=replace(COMPARISON, low=low))
    assert (failing(evidence, require=require) == []) is passes


def test_few_disagreements_fail_mcnemar() -> None:
    """Four images against none give an interval above 0, but fail the exact test."""
    few = replace(COMPARISON, only_baseline_right=0, only_challenger_right=4, mcnemar_p=0.125)
    assert failing(replace(GOOD, comparison=few), require="better") == ["McNemar's exact test"]


def test_all_failed_gates_are_reported() -> None:
    """The verdict contains all failed gates in a fixed order."""
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


def test_overlap_and_class_change_can_be_allowed() -> None:
    """Two settings allow trained-on images and other classes."""
    bad = replace(GOOD, overlaps=(Overlap("version 2", 3),), class_differences=("some",))
    assert failing(bad, allow_overlap=True, allow_class_change=True) == []


def test_first_champion_needs_a_minimum() -> None:
    """Without a champion, a minimum is required and decides."""
    first = replace(GOOD, comparison=None, champion_recall={})
    assert failing(first) == ["minimum"]
    assert failing(first, min="accuracy=0.9") == []
    assert failing(first, min="accuracy=0.95") == ["accuracy"]


def test_class_drop_names_the_class() -> None:
    """The gate names a class that lost more recall than allowed."""
    verdict = evaluate_gates(PromoteConfig(max_class_drop=0.05), GOOD)
    assert "dog -0.0600" in verdict.failed[0].found


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy"])
def test_mcnemar_applies_to_count_metrics(metric: str) -> None:
    """With few disagreements the intervals of all count metrics are too narrow."""
    few = replace(COMPARISON, only_baseline_right=0, only_challenger_right=4, mcnemar_p=0.125)
    found = failing(replace(GOOD, comparison=few), require="better", metric=metric)
    assert found == ["McNemar's exact test"]


def test_mcnemar_needs_a_split_for_the_challenger() -> None:
    """A small p passes only if the challenger is right on more images."""
    worse = replace(COMPARISON, only_baseline_right=40, only_challenger_right=10)
    found = failing(replace(GOOD, comparison=worse), require="better", metric="macro_f1")
    assert found == ["McNemar's exact test"]


NO_DISAGREEMENT = replace(
    COMPARISON, difference=0, low=0, only_baseline_right=0, only_challenger_right=0, mcnemar_p=1
)


@pytest.mark.parametrize("metric", METRICS)
def test_too_few_images_fail(metric: str) -> None:
    """Three images without disagreement give a zero-width interval, but fail the score interval."""
    evidence = replace(GOOD, comparison=replace(NO_DISAGREEMENT, num_images=3))
    assert failing(evidence, metric=metric) == ["enough images"]


def test_many_images_without_disagreement_pass() -> None:
    """A thousand images without disagreement exclude a difference of 0.01."""
    assert failing(replace(GOOD, comparison=NO_DISAGREEMENT)) == []


def test_number_of_needed_images_is_estimated() -> None:
    """A margin of 0.01 without disagreement needs z^2 (1 / 0.01 - 1) = 381 images."""
    few = replace(NO_DISAGREEMENT, num_images=150)
    assert evaluate_gates(PromoteConfig(), replace(GOOD, comparison=few)).images_needed == 390
    worse = replace(few, difference=-0.02, low=-0.03, only_baseline_right=3)
    assert evaluate_gates(PromoteConfig(), replace(GOOD, comparison=worse)).images_needed is None
    assert evaluate_gates(PromoteConfig(), GOOD).images_needed is None


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V22", "my alias", "a/b", "größe"])
def test_alias_that_mlflow_refuses_is_an_error(alias: str) -> None:
    """The settings reject the alias, so nothing is scored or claimed for it."""
    with pytest.raises(InvalidParameterError, match="alias="):
        build_config(PromoteConfig, {"alias": alias})


@pytest.mark.parametrize("alias", ["champion", "v1-best", "latest_2", "7"])
def test_alias_that_mlflow_accepts_is_valid(alias: str) -> None:
    """A name that only starts like a reserved one is valid."""
    assert build_config(PromoteConfig, {"alias": alias}).alias == alias


def test_second_minimum_of_a_metric_is_an_error() -> None:
    """Two minimums of the same metric are rejected."""
    with pytest.raises(InvalidParameterError, match="accuracy twice"):
        build_config(PromoteConfig, {"min": "accuracy=0.9,accuracy=0.1"})


@pytest.mark.parametrize(
    "text", ["accuracy", "speed=1", "accuracy=high", "=0.5", "accuracy=nan", "accuracy=inf"]
)
def test_malformed_minimum_is_an_error(text: str) -> None:
    """A minimum must have the form METRIC=VALUE."""
    with pytest.raises(InvalidParameterError, match="METRIC=VALUE"):
        build_config(PromoteConfig, {"min": text}).minimums()


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_can_be_a_minimum(metric: str) -> None:
    """`--min` accepts the same metric names as `--metric`."""
    assert build_config(PromoteConfig, {"min": f"{metric}=0.5"}).minimums() == {metric: 0.5}
