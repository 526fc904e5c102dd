"""Tests of shell completion through the protocol that the shells use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trialrun.config import SearchConfig, TrainConfig, list_settings
from trialrun.config.promote import PromoteConfig


def complete(*words: str, shell: str = "bash") -> list[str]:
    """Return the completions of the last word of `trialrun WORDS`."""
    line = " ".join(("trialrun", *words))
    environment = {
        "_TRIALRUN_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    completed = subprocess.run(
        [sys.executable, "-m", "trialrun"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stderr == ""
    return completed.stdout.split()


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["tr"], ["train"]),
        (["data", ""], ["check", "convert", "split", "shard"]),
        (["cache", "c"], ["clear"]),
        (["train", "--opt"], ["--optimizer"]),
        (["train", "--optimizer", "s"], ["sgd"]),
        (["-q", "train", "--optimizer", ""], ["sgd", "adamw"]),
        (["train", "--debug", "--schedule", "c"], ["cosine", "constant"]),
        (["train", "--tf32", ""], ["true", "false"]),
        (["train", "--image-size", ""], ["auto"]),
        (["train", "--device", "c"], ["cpu", "cuda"]),
        (["train", "--model", "resnet1"], ["resnet101", "resnet152", "resnet18"]),
        (["search", "--sampler", "t"], ["tpe"]),
        (["search", "--metric", "valid_l"], ["valid_loss"]),
        (["promote", "photos", "--require", ""], ["better", "not-worse"]),
        (["model", "init", "vit_l"], ["vit_l_16", "vit_l_32"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bash_completes_commands_flags_and_values(words: list[str], completions: list[str]) -> None:
    """The values are those of choice settings, booleans, devices, metrics and networks."""
    assert complete(*words) == completions


@pytest.mark.parametrize("words", [["train", "--epochs", ""], ["train", "--train-data", "a"]])
def test_numbers_and_paths_are_left_to_the_shell(words: list[str]) -> None:
    """Without completions of ours, bash offers file names."""
    assert complete(*words) == []


def test_completion_has_no_side_effects() -> None:
    """A completed line that holds --version does not print the version."""
    assert complete("--version", "tr") == ["train"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_too(shell: str) -> None:
    """They also show the help text of a flag."""
    words = complete("train", "--optim", shell=shell)
    assert any("--optimizer" in word for word in words)
    assert "momentum" in words


def test_completion_imports_no_heavy_package() -> None:
    """A shell waits for the program at every Tab."""
    program = (
        "import sys\nfrom trialrun.cli import run_cli\nassert run_cli([]) == 0\n"
        "heavy = {'torch', 'mlflow', 'optuna', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(len(heavy))"
    )
    environment = {
        "_TRIALRUN_COMPLETE": "complete_bash",
        "COMP_WORDS": "trialrun train --model resnet1",
        "COMP_CWORD": "3",
    }
    completed = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    assert "resnet18" in completed.stdout.splitlines()


def test_install_completion_writes_the_script_that_show_completion_prints(tmp_path: Path) -> None:
    """Bash reads the script from ~/.bashrc; it runs the program with the protocol's variable."""
    environment = os.environ | {"HOME": str(tmp_path)}
    # The second command keeps bash from replacing itself: the program looks for its parent shell.
    for option in ("--show-completion", "--install-completion"):
        command = f"{sys.executable} -m trialrun {option}; exit $?"
        completed = subprocess.run(
            ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True
        )
        if option == "--show-completion":
            script = completed.stdout.strip()
    assert "_TRIALRUN_COMPLETE=complete_bash" in script
    installed = tmp_path / ".bash_completions" / "trialrun.sh"
    assert installed.read_text().strip() == script
    assert str(installed) in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize("config", [TrainConfig, SearchConfig, PromoteConfig])
def test_suggested_values_are_legal(config: type) -> None:
    """Every value that completion offers parses."""
    for setting in list_settings(config):
        for text in setting.suggestions:
            assert setting.parse(text) is not None
