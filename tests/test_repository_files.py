"""Citation, changelog, forms of issues, checks before a commit and targets of make."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import trialrun

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SCHEMAS = {
    "CITATION.cff": "vendor.citation-file-format",
    ".github/ISSUE_TEMPLATE/bug.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/feature.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
}


def run_command(*command: str) -> str:
    """Run a command in the root; return its output."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SCHEMAS)
def test_file_follows_its_schema(name: str) -> None:
    """The file is valid by the published schema of its format."""
    run_command(str(BIN / "check-jsonschema"), "--builtin-schema", SCHEMAS[name], name)


def test_citation_and_changelog_have_the_version_and_its_date() -> None:
    """Both name the version of the package as the newest release, with the same date."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    releases = re.findall(r"^## \[(\d[^]]*)\] - (\S+)$", changelog, re.MULTILINE)
    assert citation["version"] == trialrun.__version__
    assert releases[0] == (trialrun.__version__, str(citation["date-released"]))


def test_pre_commit_fetches_nothing() -> None:
    """All hooks are programs of the environment of `make`."""
    run_command(str(BIN / "pre-commit"), "validate-config")
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        program = Path(hook["entry"].split()[0])
        assert program.parent == Path(".venv/bin")
        assert (BIN / program.name).exists()


def test_make_lists_every_target() -> None:
    """`make` without a target prints each target with its text."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    listed = {
        line.split(maxsplit=1)[0]: line
        for line in run_command("make", "--no-print-directory").splitlines()
    }
    assert set(listed) == set(phony[1].split())
    assert all(len(line.split(maxsplit=1)) == 2 for line in listed.values())
