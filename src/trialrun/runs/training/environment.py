"""What a run computed with: versions, machine, threads, and which trialrun.

Two runs of one record give the same bits where these agree.
"""

import hashlib
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from trialrun import errors
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.compute.processor import read_cpuinfo

ENVIRONMENT = "environment.json"
FOLDER_TAG = "trialrun.folder"  # that a run was started in, to which its paths are relative
# What can change a number: arithmetic, decoding, drawing.
_PACKAGES = ("trialrun", "torch", "torchvision", "numpy", "pillow", "safetensors", "mlflow")


def describe_environment(compute: ComputeConfig) -> dict[str, Any]:
    """Plain values, flat: name to text or number."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _describe_processor(),
        "device": _device_name(compute),
        "num_threads": torch.get_num_threads(),
        **{name: _read_version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "code_sha256": _hash_code(),
    }


def _hash_code() -> str:
    """A hash over trialrun's own source files, which tells checkouts apart that call themselves
    the same version.
    """
    root = Path(errors.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def parse_environment(text: str) -> dict[str, Any]:
    """What `environment.json` holds."""
    found = json.loads(text)
    return found if isinstance(found, dict) else {}


def _read_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _describe_processor() -> str:
    cpuinfo = read_cpuinfo()
    if not cpuinfo:
        return platform.processor() or "unknown"
    return f"{os.cpu_count()} x {cpuinfo.get('model name', 'unknown')}"


def _device_name(compute: ComputeConfig) -> str:
    if compute.device.type == "cuda":
        return torch.cuda.get_device_name(compute.device)
    return compute.device.type
