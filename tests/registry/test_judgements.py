"""Tests of the judgements of test sets and the evidence that they cost."""

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.registry.history import PROMOTION
from trialrun.registry.judgements import (
    DRY_RUN,
    EVALUATION,
    Judgement,
    count_attempts,
    make_judgement,
    parse_judgements,
    read_judgements,
    record_judgement,
    spend_alpha,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

HASHES = [f"{number * 2654435761 % 2**48:012x}{'0' * 52}" for number in range(1, 1001)]
OTHER_HASHES = [f"{number * 2654435761 % 2**48:012x}{'0' * 52}" for number in range(5001, 6001)]


def judge(
    version: str, champion: str | None, *, kind: str = PROMOTION, hashes: list[str] = HASHES
) -> Judgement:
    """Return a judgement in a run of its own."""
    run_id = f"{kind} {version} {champion}"
    return make_judgement(kind, version, champion, run_id, hashes)


def test_each_compared_version_is_an_attempt() -> None:
    """Versions 2 to 20 against champion 1 are 19 attempts; version 21 is the 20th."""
    before = [judge(str(number), "1") for number in range(2, 21)]
    assert count_attempts(before, judge("21", "1")) == 20


def test_repetition_is_no_new_attempt() -> None:
    """The same version against the same champion gives the same result: it counts once."""
    before = [judge("2", "1"), judge("2", "1", kind=DRY_RUN)]
    assert count_attempts(before, judge("2", "1")) == 1
    assert count_attempts(before, judge("2", "3")) == 2


def test_other_test_set_is_a_first_attempt() -> None:
    """Attempts on other images do not count."""
    before = [judge(str(number), "1", hashes=OTHER_HASHES) for number in range(2, 21)]
    assert count_attempts(before, judge("21", "1")) == 1


def test_changed_test_set_is_recognised() -> None:
    """A test set without 1 of its images, or with half of them, is the same test set."""
    for changed in (HASHES[1:], HASHES[:500], HASHES[:500] + OTHER_HASHES[:500]):
        assert count_attempts([judge("2", "1")], judge("3", "1", hashes=changed)) == 2


def test_evaluation_of_another_version_counts() -> None:
    """An evaluation may have chosen the version, unless that version was judged anyway."""
    evaluations = [judge(number, None, kind=EVALUATION) for number in ("1", "2", "3", "4")]
    assert count_attempts(evaluations, judge("2", "1")) == 3  # itself, 3 and 4


def test_first_champion_is_no_attempt_of_its_followers() -> None:
    """A comparison with a champion and a minimum without one are different questions."""
    before = [judge("1", None)]
    assert count_attempts(before, judge("2", "1")) == 1
    assert count_attempts(before, judge("3", None)) == 2


def test_judgements_are_kept_with_the_model(store: str) -> None:
    """Judgements are read back as they were recorded; a damaged one is ignored."""
    import mlflow

    client: MlflowClient = mlflow.MlflowClient()
    client.create_registered_model("digits")
    recorded = [judge("1", None), judge("2", "1")]
    for judgement in recorded:
        record_judgement(client, "digits", judgement)
    client.set_registered_model_tag("digits", "trialrun.judged.damaged", "{")
    assert sorted(read_judgements(client, "digits"), key=lambda item: item.version) == recorded


def test_tag_fits_into_every_database() -> None:
    """PostgreSQL takes 5,000 characters of a registered model's tag."""
    assert len(judge("1" * 10, "2" * 10).to_text()) < 2000


def test_foreign_tags_are_ignored() -> None:
    """Only the tags of judgements are parsed."""
    assert parse_judgements({"owner": "me", "trialrun.champion.000001": "{}"}) == ()


def test_first_attempt_has_the_usual_level() -> None:
    """The level of the first attempt is the confidence itself."""
    assert spend_alpha(0.95, 1) == pytest.approx(0.95)


@given(st.floats(0.5, 0.999), st.integers(1, 1000))
def test_all_attempts_together_keep_the_error_probability(confidence: float, number: int) -> None:
    """The error probabilities of one side of all attempts sum to less than 1 - confidence."""
    tails = [(1 - spend_alpha(confidence, attempt)) / 2 for attempt in range(1, number + 1)]
    assert tails == sorted(tails, reverse=True)
    assert sum(tails) < 1 - confidence
