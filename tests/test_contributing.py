"""The worked examples of CONTRIBUTING.md, applied to a copy of the sources and run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL, write_classes
from tests.processes import run_program

ROOT = Path(__file__).parents[1]
MAX_FILES = 3

TRAIN_WITH_MOMENTUM = """
import sys, trialrun
settings = {"model": "shufflenet_v2_x0_5", "epochs": 1, "batch_size": 8, "device": "cpu"}
trained = [
    trialrun.train(train_data=sys.argv[1], **settings, momentum=momentum).weights_sha256
    for momentum in (0.9, 0.5, 0.8)
]
print(len(set(trained)))
"""


def apply_example(name: str, folder: Path) -> dict[str, str]:
    """Apply one example to a copy of the sources; return the environment that runs the copy."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    match = re.search(rf"<!-- example: {name} -->\n```diff\n(.*?)```", text, re.DOTALL)
    assert match is not None
    patch = match[1]
    assert len(re.findall(r"^\+\+\+ ", patch, re.MULTILINE)) <= MAX_FILES
    shutil.copytree(
        ROOT / "src" / "trialrun",
        folder / "src" / "trialrun",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    subprocess.run(["git", "apply", "-"], input=patch, text=True, cwd=folder, check=True)
    return os.environ | {"PYTHONPATH": str(folder / "src")}


def run_command(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `trialrun` of the copy."""
    return run_program([sys.executable, "-m", "trialrun", *arguments], env=environment)


@pytest.mark.slow
def test_example_of_a_list_format_reads_the_list_out_of_an_archive(tmp_path: Path) -> None:
    """The labels of an archive come from its metadata.tsv, which is unpacked with the images."""
    environment = apply_example("list-format", tmp_path / "copy")
    images = write_classes(tmp_path / "set", {"images": 6})
    rows = [f"images/{number:03}.png\t{'ab'[number % 2]}\n" for number in range(6)]
    (images / "metadata.tsv").write_text("file_name\tlabel\n" + "".join(rows))
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", images)
    done = run_command(environment, "data", "check", archive, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sets"][0]["images_by_class"] == {"a": 3, "b": 3}


@pytest.mark.slow
def test_example_of_a_setting_is_a_flag_with_a_range_and_changes_training(
    tmp_path: Path, colors: Path, store: str
) -> None:
    """A value outside the range is refused; another momentum trains other weights."""
    environment = apply_example("setting", tmp_path / "copy")
    refused = run_command(environment, "train", "--momentum", "2")
    assert refused.returncode == 2
    assert "momentum=2 is not" in refused.stderr
    command = [sys.executable, "-c", TRAIN_WITH_MOMENTUM, str(colors)]
    done = run_program(command, env=environment)
    assert done.stdout == "3\n", done.stderr


@pytest.mark.slow
def test_example_of_a_gate_refuses_a_version(tmp_path: Path, colors: Path, store: str) -> None:
    """36 test images pass the gate of 36 and fail the gate of 37."""
    environment = apply_example("gate", tmp_path / "copy")
    settings = ["--model", SMALL, "--epochs", "1", "--device", "cpu", "--register-as", "colors"]
    done = run_command(environment, "train", f"--train-data={colors}", *settings)
    assert done.returncode == 0, done.stderr
    test = write_classes(tmp_path / "test", {"blue": 12, "green": 12, "red": 12}, seed=77)
    promote = ["promote", "colors", "--version=1", f"--data={test}", "--min=accuracy=0", "--json"]
    for min_images, exit_code in ((37, 5), (36, 0)):
        done = run_command(environment, *promote, f"--min-images={min_images}")
        assert done.returncode == exit_code, done.stderr
        gates = {gate["name"]: gate["passed"] for gate in json.loads(done.stdout)["gates"]}
        assert gates["test images"] is (exit_code == 0)
