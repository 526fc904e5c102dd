"""Tests that the generated project files and the lock agree with the configuration."""

import importlib.metadata
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from scripts.project_files import ROOT, parse_lock, render_files
from trialrun.config import TrainConfig, list_settings

LOCK = (ROOT / "requirements.lock").read_text("utf-8")


@pytest.mark.parametrize("path", render_files(), ids=lambda path: path.name)
def test_generated_file_is_current(path: Path) -> None:
    """`make generate` would change nothing."""
    assert path.read_text("utf-8") == render_files()[path]


def test_every_setting_is_an_mlproject_parameter() -> None:
    """`mlflow run -P` reaches every setting of train."""
    project = yaml.safe_load((ROOT / "MLproject").read_text("utf-8"))
    main = project["entry_points"]["main"]
    names = [item.name for item in list_settings(TrainConfig)]
    assert list(main["parameters"]) == names
    assert all(f"--{name.replace('_', '-')} {{{name}}}" in main["command"] for name in names)


def test_lock_pins_every_version_and_names_no_address() -> None:
    """A lock holds versions only."""
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    assert all(re.match(r"[A-Za-z0-9._-]+==\S+", line) for line in lines)
    assert "://" not in LOCK


def test_lock_satisfies_the_declared_dependencies() -> None:
    """Every dependency of the project is locked within its range."""
    locked = parse_lock(LOCK)
    for text in importlib.metadata.requires("trialrun") or ():
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[requirement.name.lower()]), text
