"""The files that follow from `config` and the lock: MLproject, conda.yaml, README's table.

`make generate` writes them; a test holds them to what this program would write.
"""

import re
import sys
import tomllib
from pathlib import Path

from trialrun.config import Knob, TrainConfig, as_text, knobs

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.11"  # `mlflow run --env-manager=uv` takes a pinned one only
TABLE_BEGINS = "<!-- parameters: written by `make generate` -->"
TABLE_ENDS = "<!-- /parameters -->"


def mlproject() -> str:
    """MLproject: an entry point a command, a parameter a setting."""
    train = {item.name: as_text(item.default) for item in knobs(TrainConfig)}
    lines = ["name: trialrun", "conda_env: conda.yaml", "", "entry_points:"]
    lines += _entry_point("main", "train", train, {})
    lines += _entry_point("score", "score", {"output": "scored.csv"}, {"model": None, "data": None})
    return "\n".join(lines) + "\n"


def _entry_point(
    name: str, command: str, flags: dict[str, str], arguments: dict[str, str | None]
) -> list[str]:
    """Lines of one entry point; an argument without a default must be given."""
    lines = [f"  {name}:", "    parameters:"]
    for parameter, default in {**arguments, **flags}.items():
        given = "" if default is None else f', default: "{default}"'
        lines.append(f"      {parameter}: {{type: string{given}}}")
    words = [f"python -m trialrun {command}"]
    words += [f"{{{argument}}}" for argument in arguments]
    words += [f"--{flag.replace('_', '-')} {{{flag}}}" for flag in flags]
    return [*lines, "    command: >-", *(f"      {word}" for word in words)]


def conda_yaml(pyproject: str, lock: str) -> str:
    """conda.yaml: the direct dependencies at the lock's versions, and the project itself."""
    wanted = tomllib.loads(pyproject)["project"]["dependencies"]
    names = [re.split(r"[<>=!~ ]", requirement)[0] for requirement in wanted]
    locked = locked_versions(lock)
    lines = ["name: trialrun", "channels:", "  - conda-forge", "dependencies:"]
    lines += [f"  - python={PYTHON}", "  - pip", "  - pip:"]
    lines += [f"      - {name}=={locked[name]}" for name in names]
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
    rows += [_row(item) for item in knobs(TrainConfig)]
    return "\n".join(rows)


def _row(item: Knob) -> str:
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
    }


def main() -> int:
    """Write them."""
    for path, content in expected().items():
        path.write_text(content, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
