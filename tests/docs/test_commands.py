"""Tests that every command and flag that README and docs/ name exists."""

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import yaml

from tests.docs.blocks import PAGES, ROOT, list_commands, name_page, read_blocks, remove_blocks
from trialrun.cli.commands import app
from trialrun.cli.flags import add_switch_values

CLI: Any = typer.main.get_command(app)
EVERYWHERE = {"--debug", "--help", "-q", "--quiet", "--version", "--install-completion"}
# Flags of other programs that the pages name outside of code blocks.
FOREIGN_FLAGS = {"--allowed-hosts", "--build-image", "--env-manager", "--settings"}
OF_PROGRAMS = {"CONTRIBUTING.md", "docs/log.md", "docs/results.md"}  # name flags of benchmarks
CALLS = list_commands("trialrun") + list_commands("-m trialrun")


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the first words name, and the other words."""
    command, rest = CLI, list(words)
    while hasattr(command, "commands") and rest:
        assert rest[0] in command.commands, f"no command {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def list_flags(command: Any) -> set[str]:
    """Return the flags of a command and of all commands below it."""
    below = getattr(command, "commands", {}).values()
    own = {flag for item in command.params for flag in (*item.opts, *item.secondary_opts)}
    return own.union(*map(list_flags, below))


@pytest.mark.parametrize(("page", "words"), CALLS, ids=lambda item: str(item)[:80])
def test_command_of_a_block_is_accepted(page: str, words: list[str]) -> None:
    """The command line parses every `trialrun ...` of a code block."""
    ignored = EVERYWHERE - {"--help", "--version"}  # `promote` has a flag of this name
    words = [word for word in words if word not in ignored]
    if not words or "--help" in words:
        return
    command, rest = find_command(add_switch_values(words))
    command.make_context("trialrun", rest)


def iterate_spans() -> Iterator[tuple[str, str]]:
    """Yield the page and the text of every code span outside of blocks."""
    for page in PAGES:
        for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", remove_blocks(page.read_text("utf-8"))):
            yield name_page(page), span


def test_commands_in_sentences_exist() -> None:
    """A code span such as `trialrun data check --json` names a command and its flags."""
    for page, span in iterate_spans():
        match = re.match(r"trialrun ([a-z]+(?: [a-z]+)?)\b(?!:)(.*)", span)
        if match is None:
            continue
        command, _ = find_command([word for word in match[1].split() if word])
        flags = set(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]*", match[2])) - EVERYWHERE
        assert flags <= list_flags(command), f"{page}: `{span}`"


def test_flags_in_sentences_exist() -> None:
    """A code span that begins with a flag names one of a command."""
    known = list_flags(CLI) | EVERYWHERE | FOREIGN_FLAGS
    for page, span in iterate_spans():
        if page not in OF_PROGRAMS and (match := re.match(r"--[a-z0-9-]+", span)):
            assert match[0] in known, f"{page}: `{span}`"


def test_parameters_of_mlflow_run_exist() -> None:
    """`mlflow run` of this project gets parameters that MLproject has."""
    entries = yaml.safe_load((ROOT / "MLproject").read_text("utf-8"))["entry_points"]
    calls = list_commands("mlflow run")
    assert calls
    for page, words in calls:
        entry = words[words.index("-e") + 1] if "-e" in words else "main"
        names = {
            words[place + 1].partition("=")[0] for place, word in enumerate(words) if word == "-P"
        }
        assert names <= entries[entry]["parameters"].keys(), page


def test_python_blocks_are_valid() -> None:
    """Every block of Python can be compiled, also those that are not run."""
    for page in PAGES:
        for block in read_blocks(page):
            if block.language == "python":
                ast.parse(block.text, filename=block.page)


def test_every_block_names_its_language() -> None:
    """A block without a language would be neither run nor parsed."""
    for page in PAGES:
        for block in read_blocks(page):
            assert block.language, f"{block.page}: {block.text[:60]}"
