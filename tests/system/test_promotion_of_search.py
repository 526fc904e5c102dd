"""Test of the promotion of a search's best trial, with the real command line."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_program
from trialrun.cache.location import cache_folder
from trialrun.images.formats.sample import write_sample

SETTINGS = ("--model=shufflenet_v2_x0_5", "--epochs=1", "--device=cpu", "--precision=fp32")
IMAGES = {"train": 8, "valid": 8, "test": 30}  # of each digit


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Return a folder with disjoint parts of the digits."""
    source = write_sample("sample:digits", cache_folder())
    for label in map(str, range(10)):
        files = iter(sorted((source / label).glob("*.png")))
        for part, number in IMAGES.items():
            folder = tmp_path / "digits" / part / label
            folder.mkdir(parents=True)
            for _ in range(number):
                shutil.copy(next(files), folder)
    return tmp_path / "digits"


def run_command(*arguments: str, codes: tuple[int, ...] = (0,)) -> tuple[dict[str, Any], str]:
    """Run a command, check its exit code, and return its JSON object and its standard error."""
    command = [sys.executable, "-m", "trialrun", *arguments, "--json"]
    done = run_program(command)
    assert done.returncode in codes, done.stderr
    values = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(values, dict)
    return values, done.stderr


@pytest.mark.slow
def test_set_that_chose_the_trial_is_refused(
    digits: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best of 6 equal trials is not judged by the images that chose it, but by fresh ones."""
    monkeypatch.chdir(tmp_path)
    data = [f"--train-data={digits / 'train'}", f"--valid-data={digits / 'valid'}"]
    names = ["--register-as=digits", "--experiment=tests"]
    run_command("train", *data, *names, *SETTINGS, "--learning-rate=0.02")
    promote = ["promote", "digits", "--experiment=tests"]
    run_command(*promote, "--version=1", f"--data={digits / 'test'}", "--min=accuracy=0.01")
    equal = ["--trials=6", "--learning-rate=0.0199:0.0201", "--pruner=none"]
    run_command("search", *data, *names, *SETTINGS, *equal)

    challenge = [*promote, "--version=2", "--require=better"]
    refused, errors = run_command(*challenge, f"--data={digits / 'valid'}", codes=(5,))
    gates = {gate["name"]: gate for gate in refused["gates"]}
    gate = gates["test images that chose the epoch or trial of version 2"]
    assert (gate["passed"], gate["found"]) == (False, "80 images")
    assert "chose the epoch or trial of version 2: required none, found 80 images" in errors

    judged = run_command(*challenge, f"--data={digits / 'test'}", "--dry-run", codes=(0, 5))[0]
    failed = [gate["name"] for gate in judged["gates"] if not gate["passed"]]
    assert failed in ([], ["accuracy better"])  # the evidence decides, nothing else
