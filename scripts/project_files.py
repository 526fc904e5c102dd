"""The files that follow from `config` and the lock: MLproject, conda.yaml, README's table.

`make generate` writes them; a test holds them to what this program would write.
"""

import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trialrun.config import SearchConfig, Setting, TrainConfig, as_text, list_settings
from trialrun.config.evaluate import EvaluateConfig
from trialrun.config.promote import PromoteConfig
from trialrun.config.score import ScoreConfig
from trialrun.tuning.space import DEFAULT_RANGES

from scripts.keyword_types import keyword_types

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.11"  # `mlflow run --env-manager=uv` takes a pinned one only
TABLE_BEGINS = "<!-- parameters: written by `make generate` -->"
TABLE_ENDS = "<!-- /parameters -->"


def mlproject() -> str:
    """MLproject: an entry point a command, a parameter a setting."""
    entries = [
        EntryPoint("main", "train", settings=(TrainConfig,)),
        EntryPoint(
            "search", "search", settings=(TrainConfig, SearchConfig), defaults=DEFAULT_RANGES
        ),
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
    return "\n".join([*lines, *(line for entry in entries for line in entry.lines())]) + "\n"


@dataclass(frozen=True)
class EntryPoint:
    """A command as MLproject calls it: arguments by place, options by name, None where required."""

    name: str
    command: str
    arguments: tuple[str, ...] = ()
    options: Mapping[str, str | None] = field(default_factory=dict)
    settings: tuple[type, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Its lines in MLproject."""
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
            *(f"      {name}: {_declared(default)}" for name, default in parameters.items()),
            "    command: >-",
            *(f"      {word}" for word in words),
        ]


def _declared(default: str | None) -> str:
    return "{type: string}" if default is None else f'{{type: string, default: "{default}"}}'


def conda_yaml(pyproject: str, lock: str) -> str:
    """conda.yaml: the direct dependencies at the lock's versions, and the project itself."""
    wanted = tomllib.loads(pyproject)["project"]["dependencies"]
    names = [re.split(r"[<>=!~ ]", requirement)[0] for requirement in wanted]  # psycopg[binary]
    locked = locked_versions(lock)
    lines = ["name: trialrun", "channels:", "  - conda-forge", "dependencies:"]
    lines += [f"  - python={PYTHON}", "  - pip", "  - pip:"]
    lines += [f"      - {name}=={locked[name.partition('[')[0]]}" for name in names]
    return "\n".join([*lines, "      - -e ."]) + "\n"


def locked_versions(lock: str) -> dict[str, str]:
    """Package to version; of two with markers the one for `PYTHON`, which the lock names first."""
    versions: dict[str, str] = {}
    for line in lock.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
            versions.setdefault(match[1].lower(), match[2])
    return versions


def parameter_table() -> str:
    """README's table of the settings of `train`."""
    rows = ["| parameter | values | default | |", "|---|---|---|---|"]
    rows += [_row(item) for item in list_settings(TrainConfig)]
    return "\n".join(rows)


def _row(item: Setting) -> str:
    legal = item.legal.replace("|", "\\|")
    return f"| `{item.name}` | {legal} | `{as_text(item.default)}` | {item.rule.help} |"


def with_table(readme: str) -> str:
    """README with its table written anew."""
    begin, end = readme.index(TABLE_BEGINS), readme.index(TABLE_ENDS)
    return f"{readme[:begin]}{TABLE_BEGINS}\n{parameter_table()}\n{readme[end:]}"


def expected() -> dict[Path, str]:
    """Every file that follows from others, with the content it must have."""
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    readme = ROOT / "README.md"
    return {
        ROOT / "MLproject": mlproject(),
        ROOT / "conda.yaml": conda_yaml(pyproject, lock),
        readme: with_table(readme.read_text("utf-8")),
        ROOT / "src/trialrun/config/keywords.py": keyword_types(),
    }


def main() -> int:
    """Write them."""
    for path, content in expected().items():
        path.write_text(content, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
