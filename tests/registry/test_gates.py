"""Tests of the promotion gates."""

from dataclasses import replace

import numpy as np
import pytest

from trialrun.config import build_config
from trialrun.config.promote import METRICS, PromoteConfig
from trialrun.errors import InvalidParameterError
from trialrun.registry.gates import Evidence, Overlap, evaluate_gates
from trialrun.report.intervals import Interval
from trialrun.report.paired import PairedComparison, compare_paired
from trialrun.report.predictions import Predictions

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
    overlaps=(Overlap("version 2 was trained on", 0), Overlap("version 1 was trained on", 0)),
    intervals={
        "accuracy": Interval(0.91, 0.95),
        "macro_f1": Interval(0.87, 0.93),
        "balanced_accuracy": Interval(0.87, 0.93),
        "log_loss": Interval(0.15, 0.3),
    },
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


def test_gate_shows_attempt_and_groups() -> None:
    """The gate names the level of the interval, the attempt and the number of groups."""
    comparison = replace(COMPARISON, confidence=0.9917, num_groups=200)
    gate = evaluate_gates(PromoteConfig(), replace(GOOD, comparison=comparison, attempt=2)).gates[0]
    assert gate.asked == "99.17% interval above -0.01 (attempt 2 on these images)"
    assert gate.found == "+0.0300 [+0.0100, +0.0500], 40 against 10 of 1000 images in 200 groups"


def test_all_failed_gates_are_reported() -> None:
    """The verdict contains all failed gates in a fixed order."""
    bad = replace(
        GOOD,
        comparison=replace(COMPARISON, low=-0.2),
        overlaps=(
            Overlap("version 2 was trained on", 3),
            Overlap("chose the epoch or trial of version 2", 1),
            Overlap("version 1 was trained on", None),
        ),
        dependences=("30 test images look alike",),
        class_sizes={"cat": 3, "dog": 500},
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
        "images of each class",
        "latency",
        "size",
        "classes",
        "test images that version 2 was trained on",
        "test images that chose the epoch or trial of version 2",
        "test images that version 1 was trained on",
        "independent test images",
    ]


def test_overlap_and_class_change_can_be_allowed() -> None:
    """Two settings allow trained-on images and other classes."""
    bad = replace(
        GOOD, overlaps=(Overlap("version 2 was trained on", 3),), class_differences=("some",)
    )
    assert failing(bad, allow_overlap=True, allow_class_change=True) == []


def test_first_champion_needs_a_minimum() -> None:
    """Without a champion, a minimum is required and decides."""
    first = replace(GOOD, comparison=None, champion_recall={})
    assert failing(first) == ["minimum"]
    assert failing(first, min="accuracy=0.9") == []
    assert failing(first, min="accuracy=0.95") == ["accuracy"]


def test_minimum_means_the_lower_end_of_the_interval() -> None:
    """0.93 [0.91, 0.95] passes a minimum of 0.91 and fails 0.92; as an estimate it passes."""
    assert failing(GOOD, min="accuracy=0.91") == []
    assert failing(GOOD, min="accuracy=0.92") == ["accuracy"]
    assert failing(GOOD, min_estimate="accuracy=0.92") == []


def test_minimum_of_log_loss_means_the_upper_end() -> None:
    """A log loss of 0.2 [0.15, 0.3] fails 0.25, as an estimate it passes."""
    assert failing(GOOD, min="log_loss=0.3") == []
    assert failing(GOOD, min="log_loss=0.25") == ["log_loss"]
    assert failing(GOOD, min_estimate="log_loss=0.25") == []


def test_estimate_is_enough_for_the_first_champion() -> None:
    """A user can ask for the measured value only, and has to say so."""
    first = replace(GOOD, comparison=None, champion_recall={})
    assert failing(first, min_estimate="accuracy=0.93") == []


def test_loss_against_the_baseline_is_refused() -> None:
    """A version that is not worse than the champion can be worse than an earlier one."""
    baseline = replace(COMPARISON, difference=-0.012, low=-0.02)
    evidence = replace(GOOD, baseline=baseline, baseline_name="version 1")
    assert failing(evidence) == ["accuracy not-worse than version 1"]


def test_small_class_cannot_tell() -> None:
    """The guard of a class drop of 0.05 needs ln(0.025) / ln(0.95) = 72 images of each class."""
    small = replace(GOOD, class_sizes={"cat": 71, "dog": 72}, champion_recall=GOOD.recall)
    verdict = evaluate_gates(PromoteConfig(max_class_drop=0.05), small)
    [gate] = verdict.failed
    assert (gate.asked, gate.found) == ("at least 72", "cannot tell: cat 71")
    assert failing(small, max_class_drop=0.05, min_class_images=71) == []
    assert failing(small) == []
    assert failing(small, min_class_images=73) == ["images of each class"]


def test_grouped_or_allowed_images_need_no_independence() -> None:
    """The gate of independence fails unless groups are named or the user declines them."""
    alike = replace(GOOD, dependences=("version 1 was trained on grouped images",))
    assert failing(alike) == ["independent test images"]
    assert failing(alike, allow_ungrouped=True) == []
    assert failing(replace(alike, has_groups=True)) == []


def test_class_drop_names_the_class() -> None:
    """The gate names a class that lost more recall than allowed."""
    verdict = evaluate_gates(PromoteConfig(max_class_drop=0.05), GOOD)
    assert "dog -0.0600" in verdict.failed[0].found


def equal_models(num_images: int) -> PairedComparison:
    """Return the comparison of two models that never disagree."""
    labels = np.arange(num_images) % 2
    predictions = Predictions(("cat", "dog"), labels, labels, np.full(num_images, 0.9))
    return compare_paired("accuracy", predictions, predictions)


def test_too_few_images_fail() -> None:
    """Three images without disagreement do not show that nothing is worse."""
    assert failing(replace(GOOD, comparison=equal_models(3))) == ["accuracy not-worse"]


def test_many_images_without_disagreement_pass() -> None:
    """A thousand images without disagreement exclude a difference of 0.01."""
    assert failing(replace(GOOD, comparison=equal_models(1000))) == []


def test_number_of_needed_images_is_estimated() -> None:
    """A margin of 0.01 without disagreement needs -ln(0.025) / 0.01 = 369 images."""
    few = equal_models(150)
    assert evaluate_gates(PromoteConfig(), replace(GOOD, comparison=few)).images_needed == 380
    worse = replace(few, difference=-0.02, low=-0.03)
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
