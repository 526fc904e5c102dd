"""Settings: one declaration, one parser, every wrong value told at once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.config import TrainConfig, as_text, build_config, list_settings
from trialrun.errors import InvalidParameterError

KNOBS = {item.name: item for item in list_settings(TrainConfig)}


def test_ancestor_defaults_stand() -> None:
    """The seven parameters of Train PyTorch Model have its defaults."""
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.learning_rate) == (5, 16, 0.001)
    assert (config.random_seed, config.patience) == (1, 3)


def test_every_wrong_value_is_told_in_one_error() -> None:
    """Nobody has to mend one parameter to hear of the next."""
    wrong = {
        "epochs": "0",
        "learning_rate": "0",
        "batch_size": "-1",
        "patience": "0",
        "ema": "nan",
        "no_such": "1",
    }
    with pytest.raises(InvalidParameterError) as raised:
        build_config(TrainConfig, wrong)
    assert all(name in str(raised.value) for name in wrong)


@pytest.mark.parametrize("seed", ["-5", "99999999999999999999", "0"])
def test_any_integer_is_a_seed(seed: str) -> None:
    """Negative and very large seeds are taken as they are."""
    assert build_config(TrainConfig, {"random_seed": seed}).random_seed == int(seed)


@pytest.mark.parametrize(
    ("device", "is_one"), [("cuda:1", True), ("cuda:N", False), ("tpu", False)]
)
def test_device_is_judged_with_the_other_settings(device: str, is_one: bool) -> None:
    """Whether a machine has it is seen later; what is none is told at once."""
    if is_one:
        assert build_config(TrainConfig, {"device": device}).device == device
        return
    with pytest.raises(InvalidParameterError, match="cuda:N"):
        build_config(TrainConfig, {"device": device})


def test_empty_value_is_called_empty() -> None:
    """`train_data= is not text` would leave a hole where the value should stand."""
    with pytest.raises(InvalidParameterError, match="train_data is empty"):
        build_config(TrainConfig, {"train_data": " "})


@pytest.mark.parametrize("seed", ["9" * 5000, 10**5000], ids=["text", "number"])
def test_integer_that_cannot_be_written_is_refused(seed: object) -> None:
    """MLflow keeps settings as text, and Python writes no more than 4,300 digits."""
    with pytest.raises(InvalidParameterError, match="random_seed"):
        build_config(TrainConfig, {"random_seed": seed})


@pytest.mark.parametrize("rate", ["nan", "inf", "-0.1", "0", "", "abc", "none"])
def test_learning_rate_must_be_positive_and_finite(rate: str) -> None:
    """Not a number, infinity, zero and words are refused."""
    with pytest.raises(InvalidParameterError, match="learning_rate"):
        build_config(TrainConfig, {"learning_rate": rate})


def test_smallest_positive_double_is_a_learning_rate() -> None:
    """The ancestor's lower bound itself is legal."""
    smallest = math.nextafter(0, 1)
    assert build_config(TrainConfig, {"learning_rate": smallest}).learning_rate == smallest


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("1", True)])
def test_truth_values_have_a_text_form(text: str, value: bool) -> None:
    """MLproject has no truth values: texts stand for them."""
    assert build_config(TrainConfig, {"strict": text}).strict is value


@pytest.mark.parametrize("name", KNOBS)
def test_default_survives_its_text_form(name: str) -> None:
    """What MLflow stores of a default parses back to it."""
    item = KNOBS[name]
    assert item.parse(as_text(item.default)) == item.default


@given(st.integers(min_value=1))
def test_integers_survive_their_text_form(value: int) -> None:
    """Any legal integer parses back from its text."""
    assert KNOBS["epochs"].parse(as_text(value)) == value


@given(st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False))
def test_floats_survive_their_text_form(value: float) -> None:
    """Any legal learning rate parses back from its text, to the last bit."""
    assert KNOBS["learning_rate"].parse(as_text(value)) == value


@given(st.text())
def test_any_text_is_a_value_or_a_refusal(text: str) -> None:
    """No text makes a parser fail in another way."""
    for item in KNOBS.values():
        try:
            item.parse(text)
        except InvalidParameterError:
            continue


def test_none_stands_for_absent_where_a_setting_is_optional() -> None:
    """`none` takes the place of the None that MLproject lacks."""
    assert build_config(TrainConfig, {"valid_data": "none"}).valid_data is None
    with pytest.raises(InvalidParameterError):
        build_config(TrainConfig, {"epochs": "none"})
