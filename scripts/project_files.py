"""Generates MLproject, conda.yaml, README's parameter table and docs/reference from the code.

`make generate` runs this program; a test checks that its files are current.
"""

import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts.keyword_types import render_keywords
from scripts.reference import render_pages
from trialrun.config import SearchConfig, Setting, TrainConfig, as_text, list_settings
from trialrun.config.evaluate import EvaluateConfig
from trialrun.config.promote import PromoteConfig
from trialrun.config.resume import ResumeConfig
from trialrun.config.score import ScoreConfig
from trialrun.tuning.space import DEFAULT_RANGES

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.11"  # `mlflow run --env-manager=uv` accepts only a pinned version
TABLE_BEGINS = "<!-- parameters: written by `make generate` -->"
TABLE_ENDS = "<!-- /parameters -->"


def render_mlproject() -> str:
    """Return the text of MLproject: one entry point per command, one parameter per setting."""
    entries = [
        EntryPoint("main", "train", settings=(TrainConfig,)),
        EntryPoint(
            "search", "search", settings=(TrainConfig, SearchConfig), defaults=DEFAULT_RANGES
        ),
        EntryPoint("resume", "resume", ("run_id",), settings=(ResumeConfig,)),
        EntryPoint("evaluate", "evaluate", ("model", "data"), settings=(EvaluateConfig,)),
        EntryPoint(
            "score",
            "score",
            ("model", "data"),
            options={"output": "scored.csv"},
            settings=(ScoreConfig,),
        ),
        EntryPoint(
            "promote",
            "promote",
            ("name",),
            options={"version": None, "data": None},
            settings=(PromoteConfig,),
        ),
    ]
    lines = ["name: trialrun", "conda_env: conda.yaml", "", "entry_points:"]
    return "\n".join([*lines, *(line for entry in entries for line in entry.render())]) + "\n"


@dataclass(frozen=True)
class EntryPoint:
    """A command in MLproject: its arguments, and its options with defaults (None if required)."""

    name: str
    command: str
    arguments: tuple[str, ...] = ()
    options: Mapping[str, str | None] = field(default_factory=dict)
    settings: tuple[type, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> list[str]:
        """Return the entry point's lines in MLproject."""
        declared = [item for config in self.settings for item in list_settings(config)]
        flags = {
            **self.options,
            **{item.name: as_text(item.default) for item in declared},
            **self.defaults,
        }
        parameters: dict[str, str | None] = {**dict.fromkeys(self.arguments), **flags}
        words = [f"python -m trialrun {self.command}"]
        words += [f"{{{argument}}}" for argument in self.arguments]
        words += [f"--{flag.replace('_', '-')} {{{flag}}}" for flag in flags]
        return [
            f"  {self.name}:",
            "    parameters:",
            *(f"      {name}: {_render_type(default)}" for name, default in parameters.items()),
            "    command: >-",
            *(f"      {word}" for word in words),
        ]


def _render_type(default: str | None) -> str:
    return "{type: string}" if default is None else f'{{type: string, default: "{default}"}}'


def render_conda_yaml(pyproject: str, lock: str) -> str:
    """Return the text of conda.yaml: direct dependencies at locked versions, and the project."""
    requirements = tomllib.loads(pyproject)["project"]["dependencies"]
    names = [re.split(r"[<>=!~ ]", requirement)[0] for requirement in requirements]
    locked = parse_lock(lock)
    lines = ["name: trialrun", "channels:", "  - conda-forge", "dependencies:"]
    lines += [f"  - python={PYTHON}", "  - pip", "  - pip:"]
    # The lock names psycopg without the extra of `psycopg[binary]`.
    lines += [f"      - {name}=={locked[name.partition('[')[0]]}" for name in names]
    return "\n".join([*lines, "      - -e ."]) + "\n"


def parse_lock(lock: str) -> dict[str, str]:
    """Return the locked version per package.

    Where markers select between versions, the lock names the one for `PYTHON` first.
    """
    versions: dict[str, str] = {}
    for line in lock.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
            versions.setdefault(match[1].lower(), match[2])
    return versions


def render_parameter_table() -> str:
    """Return README's table of the settings of `train`."""
    rows = ["| parameter | values | default | |", "|---|---|---|---|"]
    rows += [_render_row(setting) for setting in list_settings(TrainConfig)]
    return "\n".join(rows)


def _render_row(setting: Setting) -> str:
    values = setting.legal_values.replace("|", "\\|")
    return f"| `{setting.name}` | {values} | `{as_text(setting.default)}` | {setting.rule.help} |"


def replace_table(readme: str) -> str:
    """Return README's text with a current parameter table."""
    begin, end = readme.index(TABLE_BEGINS), readme.index(TABLE_ENDS)
    return f"{readme[:begin]}{TABLE_BEGINS}\n{render_parameter_table()}\n{readme[end:]}"


def render_files() -> dict[Path, str]:
    """Return the path and the current text of every generated file."""
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    readme = ROOT / "README.md"
    pages = {ROOT / "docs/reference" / name: text for name, text in render_pages().items()}
    return pages | {
        ROOT / "MLproject": render_mlproject(),
        ROOT / "conda.yaml": render_conda_yaml(pyproject, lock),
        readme: replace_table(readme.read_text("utf-8")),
        ROOT / "src/trialrun/config/keywords.py": render_keywords(),
    }


def main() -> int:
    """Write the generated files and return the exit code."""
    for path, content in render_files().items():
        path.write_text(content, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
