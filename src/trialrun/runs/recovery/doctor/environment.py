"""Checks of the installed software: Python, the packages, torch with torchvision, the GPU."""

import platform
import re
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from trialrun.errors import summarize_error
from trialrun.runs.recovery.doctor.findings import (
    Finding,
    report_note,
    report_ok,
    report_problem,
)

_TORCH_NAMES = ("torch", "torchvision")
_SHOWN_NAMES = ("mlflow", "optuna")
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_PAIR = "Install both from one index: `pip install --upgrade torch torchvision`."


def check_environment() -> Iterator[Finding]:
    """Yield the findings about the installed software."""
    yield _check_python()
    yield from _check_packages()
    torch_finding = _check_torch()
    yield torch_finding
    if torch_finding.exit_code == 0:
        yield _check_gpu()
    yield _check_environment_managers()


def _check_python() -> Finding:
    supported = SpecifierSet(metadata("trialrun")["Requires-Python"] or "")
    found = platform.python_version()
    if not supported.contains(found, prereleases=True):
        remedy = f"Install trialrun in an environment with Python {supported}."
        return report_problem("Python", f"{found} is not supported", remedy)
    return report_ok("Python", found)


def _check_packages() -> Iterator[Finding]:
    """Yield a problem per package that is missing or too old, else the versions of the largest."""
    problems = [problem for text in requires("trialrun") or () if (problem := _check_package(text))]
    yield from problems
    if problems:
        return
    try:
        import mlflow  # noqa: F401 - whether it can be imported
    except Exception as error:  # of any class, raised by one of its many dependencies
        text = f"mlflow {version('mlflow')} cannot be imported: {summarize_error(error)}"
        yield report_problem("packages", text, "`pip install --force-reinstall mlflow`")
    else:
        yield report_ok("packages", ", ".join(f"{name} {version(name)}" for name in _SHOWN_NAMES))


def _check_package(text: str) -> Finding | None:
    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return None
    name, wanted = requirement.name, str(requirement.specifier)
    remedy = f"`pip install '{name}{wanted}'`"
    try:
        found = version(name)
    except PackageNotFoundError:
        return report_problem("packages", f"{name} is not installed", remedy)
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return report_problem("packages", f"{name} is {found}, not {wanted}", remedy)


def _check_torch() -> Finding:
    """Check that torchvision's compiled operators load with this torch."""
    found = " with ".join(f"{name} {_read_version(name)}" for name in _TORCH_NAMES)
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9]), 0.5)
    except Exception as error:  # of any class: a library is missing, or an operator does not exist
        reason = summarize_error(error)
        return report_problem("torch", f"{found} do not work together: {reason}", _PAIR)
    if kept.tolist() != [1]:
        return report_problem("torch", f"{found} compute a wrong result", _PAIR)
    return report_ok("torch", found)


def _read_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _check_gpu() -> Finding:
    import torch

    with warnings.catch_warnings(record=True) as caught:  # of a driver that is too old
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    driver = _read_driver()
    if is_available:
        count = torch.cuda.device_count()
        names = ", ".join(dict.fromkeys(torch.cuda.get_device_name(i) for i in range(count)))
        return report_ok(
            "GPU", f"{count} x {names}, CUDA {torch.version.cuda}, driver {driver or 'unknown'}"
        )
    if driver is None:
        has_mps = torch.backends.mps.is_available()
        return report_ok("GPU", "Apple's, by MPS" if has_mps else "none")
    reason = summarize_error(caught[0].message) if caught else ""  # type: ignore[arg-type]
    if torch.version.cuda is None:
        reason = "this torch is built for CPUs only"
    text = f"driver {driver} is installed, but torch finds no GPU"
    return report_note(
        "GPU", f"{text}: {reason}" if reason else text, "Install a torch for this driver's CUDA."
    )


def _read_driver() -> str | None:
    """Return the version of NVIDIA's driver; None without one."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER_FILE.read_text("utf-8"))
    except OSError:
        return None
    return found[0] if found else "of unknown version"


def _check_environment_managers() -> Finding:
    paths = {name: shutil.which(name) for name in ("uv", "conda")}
    text = ", ".join(f"{name} at {path}" for name, path in paths.items() if path) or "none"
    if paths["conda"]:
        return report_ok("uv, conda", text)
    flags = "--env-manager=local" + (" or --env-manager=uv" if paths["uv"] else "")
    return report_note(
        "uv, conda",
        text if paths["uv"] else "neither is on PATH",
        f"`mlflow run` uses conda unless you add {flags}.",
    )
