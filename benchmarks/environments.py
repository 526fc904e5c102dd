"""Virtual environments of other trainers, made by uv with the torch of this one."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


def prepare_python(packages: tuple[str, ...], environments: Path) -> Path:
    """Return the Python of an environment with `packages`, which is made if it is missing."""
    folder = environments / "-".join(packages or ("torch",))
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert uv, "uv is not installed: pip install uv"
        pinned = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "numpy")]
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
        subprocess.run(make, check=True)
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        subprocess.run([*install, *pinned, *packages], check=True)
        (folder / "whole").touch()
    return python


def read_version(python: Path, package: str) -> str:
    """Return the version of a package in an environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.check_output([python, "-c", code], text=True).strip()
