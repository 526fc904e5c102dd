"""Tests of the declaration and the parsing of settings."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.config import TrainConfig, as_text, build_config, list_settings
from trialrun.errors import InvalidParameterError

SETTINGS = {item.name: item for item in list_settings(TrainConfig)}


def test_defaults_are_those_of_azure_ml() -> None:
    """The seven parameters of Train PyTorch Model have its defaults."""
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.learning_rate) == (5, 16, 0.001)
    assert (config.random_seed, config.patience) == (1, 3)


def test_one_error_names_every_invalid_value() -> None:
    """Users can correct all settings at once."""
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
    """Negative and very large seeds are valid."""
    assert build_config(TrainConfig, {"random_seed": seed}).random_seed == int(seed)


@pytest.mark.parametrize(
    ("device", "is_valid"), [("cuda:1", True), ("cuda:N", False), ("tpu", False)]
)
def test_device_is_parsed_with_the_other_settings(device: str, is_valid: bool) -> None:
    """Invalid names are rejected here; whether the machine has the device is checked later."""
    if is_valid:
        assert build_config(TrainConfig, {"device": device}).device == device
        return
    with pytest.raises(InvalidParameterError, match="cuda:N"):
        build_config(TrainConfig, {"device": device})


@pytest.mark.parametrize(
    ("value", "expected"), [("off", "off"), (" ON ", "on"), ("112", 112), (112, 112), (112.0, 112)]
)
def test_first_image_size_is_a_word_or_a_number(value: object, expected: object) -> None:
    """Both have one parser, whatever the entry point."""
    assert build_config(TrainConfig, {"progressive_resize": value}).progressive_resize == expected


@pytest.mark.parametrize("value", ["half", "0", "0.5", "4097", "auto", True, None])
def test_other_first_image_sizes_are_refused(value: object) -> None:
    """The error lists the legal values."""
    expected = r"is not off \| on \| integer >= 1 and <= 4096"
    with pytest.raises(InvalidParameterError, match=expected):
        build_config(TrainConfig, {"progressive_resize": value})


@pytest.mark.parametrize(("first", "hint"), [(64, "less than 64, or to off"), (65, "less than 64")])
def test_first_image_size_is_below_the_full_one(first: int, hint: str) -> None:
    """The hint names the limit."""
    with pytest.raises(InvalidParameterError, match="not below the image size") as raised:
        build_config(TrainConfig, {"progressive_resize": first, "image_size": 64})
    assert hint in raised.value.hint


def test_empty_value_is_called_empty() -> None:
    """`train_data= is not text` would be hard to read."""
    with pytest.raises(InvalidParameterError, match="train_data is empty"):
        build_config(TrainConfig, {"train_data": " "})


@pytest.mark.parametrize("seed", ["9" * 5000, 10**5000], ids=["text", "number"])
def test_integer_that_cannot_be_formatted_is_rejected(seed: object) -> None:
    """MLflow stores settings as text, and Python formats at most 4,300 digits."""
    with pytest.raises(InvalidParameterError, match="random_seed"):
        build_config(TrainConfig, {"random_seed": seed})


@pytest.mark.parametrize("rate", ["nan", "inf", "-0.1", "0", "", "abc", "none"])
def test_learning_rate_must_be_positive_and_finite(rate: str) -> None:
    """NaN, infinity, zero and words are rejected."""
    with pytest.raises(InvalidParameterError, match="learning_rate"):
        build_config(TrainConfig, {"learning_rate": rate})


def test_smallest_positive_double_is_a_learning_rate() -> None:
    """The lower bound of Azure ML designer is itself legal."""
    smallest = math.nextafter(0, 1)
    assert build_config(TrainConfig, {"learning_rate": smallest}).learning_rate == smallest


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("1", True)])
def test_booleans_are_parsed_from_text(text: str, value: bool) -> None:
    """MLproject has no booleans and passes texts."""
    assert build_config(TrainConfig, {"strict": text}).strict is value


@pytest.mark.parametrize("name", SETTINGS)
def test_default_parses_back_from_its_text(name: str) -> None:
    """MLflow stores the text."""
    item = SETTINGS[name]
    assert item.parse(as_text(item.default)) == item.default


@given(st.integers(min_value=1))
def test_integers_parse_back_from_their_text(value: int) -> None:
    """Any legal integer does."""
    assert SETTINGS["epochs"].parse(as_text(value)) == value


@given(st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False))
def test_floats_parse_back_from_their_text(value: float) -> None:
    """Any legal learning rate does, to the last bit."""
    assert SETTINGS["learning_rate"].parse(as_text(value)) == value


@given(st.text())
def test_any_text_parses_or_raises_the_documented_error(text: str) -> None:
    """No text raises another error."""
    for item in SETTINGS.values():
        try:
            item.parse(text)
        except InvalidParameterError:
            continue


def test_none_text_is_the_absent_value_of_an_optional_setting() -> None:
    """MLproject has no None and passes `none`."""
    assert build_config(TrainConfig, {"valid_data": "none"}).valid_data is None
    with pytest.raises(InvalidParameterError):
        build_config(TrainConfig, {"epochs": "none"})
