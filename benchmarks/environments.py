"""Virtual environments of trialrun and of other trainers, made by uv with the torch of this one."""

import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_OURS = "trialrun"
_PINNED = ("torch", "torchvision", "numpy")


def prepare_python(packages: tuple[str, ...], environments: Path) -> Path:
    """Return the Python of an environment with `packages`, which is made if it is missing."""
    folder = environments / "-".join(packages or ("torch",))
    if not (folder / "whole").exists():
        _make_environment(folder)
        _install(folder, *packages)
        (folder / "whole").touch()
    return _find_python(folder)


@cache
def prepare_own_python(environments: Path) -> Path:
    """Return the Python of an environment with this trialrun and no extras, as users install it.

    The one of the benchmarks has all extras, which MLflow and torch load where they find them.
    """
    folder = environments / _OURS
    if not folder.exists():
        _make_environment(folder)
    _install(folder, "--reinstall-package", _OURS, str(_ROOT))
    return _find_python(folder)


def _make_environment(folder: Path) -> None:
    make = ["venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
    subprocess.run([_find_uv(), *make], check=True)


def _install(folder: Path, *packages: str) -> None:
    """Install packages beside the torch, torchvision and numpy of this environment."""
    pinned = [f"{name}=={version(name)}" for name in _PINNED]
    install = [
        "pip",
        "install",
        "--quiet",
        "--compile-bytecode",
        "--python",
        str(_find_python(folder)),
    ]
    subprocess.run([_find_uv(), *install, *pinned, *packages], check=True)


def _find_python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _find_uv() -> str:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert uv, "uv is not installed: pip install uv"
    return uv


def make_peer_variables() -> dict[str, str]:
    """Return this process's environment for a process of another environment."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def read_version(python: Path, package: str) -> str:
    """Return the version of a package in an environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.check_output([python, "-c", code], text=True).strip()
