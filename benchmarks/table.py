"""Tables that say where and when their figures were measured."""

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

from trialrun.engine.compute.processor import read_cpuinfo


def heading(title: str) -> str:
    """The title, and the date, machine and versions of this run."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "mlflow"))
    today = datetime.datetime.now(datetime.UTC).date()
    where = f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"## {title}\n\n{today}. {where}, {versions}.\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows in Markdown, numbers with three digits that count."""
    lines = [columns, ["---"] * len(columns), *[[_text(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _text(cell: object) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _processor() -> str:
    return read_cpuinfo().get("model name") or platform.processor() or platform.machine()
