"""The environment of a run: versions, machine, threads and the hash of trialrun's source.

Two runs with the same settings, data and environment give bit-identical results.
"""

import hashlib
import json
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from trialrun import errors
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.compute.processor import read_cpuinfo

ENVIRONMENT = "environment.json"
FOLDER_TAG = "trialrun.folder"  # the working directory of the run: its relative paths start here
# The packages that can change a number: they compute, decode images or draw random numbers.
_PACKAGES = ("trialrun", "torch", "torchvision", "numpy", "pillow", "safetensors", "mlflow")


def describe_environment(compute: ComputeConfig) -> dict[str, Any]:
    """Return the content of `environment.json`, a flat mapping of names to plain values."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _describe_processor(),
        "device": _device_name(compute),
        "num_threads": torch.get_num_threads(),
        **{name: read_version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "code_sha256": _hash_code(),
    }


@cache
def _hash_code() -> str:
    """Return the SHA-256 of trialrun's source files: two checkouts may have the same version."""
    root = Path(errors.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def parse_environment(text: str) -> dict[str, Any]:
    """Parse the content of `environment.json`; empty if it is not an object."""
    values = json.loads(text)
    return values if isinstance(values, dict) else {}


@cache
def read_version(name: str) -> str:
    """Return the version of an installed package; `not installed` without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@cache
def _describe_processor() -> str:
    cpuinfo = read_cpuinfo()
    if not cpuinfo:
        return platform.processor() or "unknown"
    return f"{os.cpu_count()} x {cpuinfo.get('model name', 'unknown')}"


def _device_name(compute: ComputeConfig) -> str:
    if compute.device.type == "cuda":
        return torch.cuda.get_device_name(compute.device)
    return compute.device.type
