"""Markdown tables of figures, with the date, machine and versions of the measurement."""

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

from trialrun.engine.compute.processor import read_cpuinfo


def make_heading(title: str) -> str:
    """Return the title, and the date, machine and versions of this run."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "mlflow"))
    today = datetime.datetime.now(datetime.UTC).date()
    machine = f"{_describe_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"## {title}\n\n{today}. {machine}, {versions}.\n"


def print_machine(*packages: str) -> None:
    """Print the date, the machine, the versions of packages and the load."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    today, load = datetime.datetime.now(datetime.UTC).date(), os.getloadavg()[0]
    print(f"{today}, {platform.machine()}, {os.cpu_count()} processors, {versions}")
    print(f"load at the start: {load:.1f} (above 0.5 the figures are noisy)\n")


def format_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format rows as a Markdown table, floats with three significant digits."""
    cells = [[_format_cell(cell) for cell in row] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _format_cell(cell: object) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _describe_processor() -> str:
    return read_cpuinfo().get("model name") or platform.processor() or platform.machine()
