"""Tests of the flags that settings become."""

import pytest

from trialrun.cli import commands
from trialrun.cli.flags import add_switch_values


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("train --strict", "train --strict true"),
        ("train --strict --epochs 1", "train --strict true --epochs 1"),
        ("train --strict false", "train --strict false"),
        ("train --strict maybe", "train --strict maybe"),
        ("train --epochs 1", "train --epochs 1"),
        ("reproduce --allow-changed-data ID", "reproduce --allow-changed-data true ID"),
        ("reproduce ID --allow-changed-data", "reproduce ID --allow-changed-data true"),
        ("reproduce --allow-changed-data no ID", "reproduce --allow-changed-data no ID"),
        ("promote --allow-overlap photos", "promote --allow-overlap true photos"),
        ("data check --strict set", "data check --strict set"),
        ("", ""),
    ],
)
def test_boolean_flag_without_a_value_is_true(line: str, completed: str) -> None:
    """A following word is the value, unless it can only be an argument of the command."""
    assert commands.app is not None  # declaring the commands collects their flags
    assert add_switch_values(line.split()) == completed.split()
