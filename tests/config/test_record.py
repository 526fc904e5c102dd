"""The record of settings as YAML: exact values, also of texts that YAML could take for others."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trialrun.config import TrainConfig, build_config
from trialrun.config.record import format_record, parse_record

NAMES = st.text(st.characters(exclude_categories=()), min_size=1)  # also lone surrogates
NUMBERS = st.floats(5e-324, 1e300)


@given(name=NAMES.filter(str.strip), rate=NUMBERS, seed=st.integers(), data=NAMES.filter(str.strip))
def test_record_has_the_exact_values(name: str, rate: float, seed: int, data: str) -> None:
    """Any text, number and integer is read as it was written."""
    values = {"run_name": name, "learning_rate": rate, "random_seed": seed, "valid_data": data}
    config = build_config(TrainConfig, values)
    assert build_config(TrainConfig, parse_record(format_record(config))) == config


@pytest.mark.parametrize("text", ["1e-3", "null", "on", "~", "2024-01-01", "a\nb", "é: #", "0x1F"])
def test_texts_are_quoted(text: str) -> None:
    """Readers of YAML 1.1 and 1.2 take a quoted value for a text."""
    record = format_record(build_config(TrainConfig, {"run_name": text}))
    assert re.search('^run_name: ".*"$', record, re.MULTILINE)
    assert yaml.safe_load(record)["run_name"] == text


@pytest.mark.parametrize("text", ["", "- a", "a: [1]", "a: {", "a: !!python/name:os.system x"])
def test_damaged_record_is_a_value_error(text: str) -> None:
    """Only a mapping of names to plain values is read."""
    with pytest.raises(ValueError, match=r"\S"):
        parse_record(text)
