"""Checks of the installed software; what is missing here is faked in the metadata."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
import torchvision

from trialrun.runs.recovery.doctor import environment
from trialrun.runs.recovery.doctor.environment import check_environment
from trialrun.runs.recovery.doctor.findings import NOTE, OK, PROBLEM, Finding


def check(name: str) -> list[Finding]:
    """Return the findings with a name."""
    return [finding for finding in check_environment() if finding.name == name]


def test_this_environment_is_well() -> None:
    """Python, the packages and torch fit; uv and conda are not needed."""
    findings = list(check_environment())
    assert [finding.name for finding in findings] == [
        "Python",
        "packages",
        "torch",
        "GPU",
        "uv, conda",
    ]
    assert all(finding.state in (OK, NOTE) for finding in findings)
    assert torch.__version__.partition("+")[0] in findings[2].text
    assert torchvision.__version__.partition("+")[0] in findings[2].text


def test_unsupported_python_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy names the versions that are supported."""
    monkeypatch.setattr("platform.python_version", lambda: "3.9.1")
    (finding,) = check("Python")
    assert (finding.state, finding.exit_code) == (PROBLEM, 1)
    assert ">=3.11" in finding.remedy


def test_missing_and_old_packages_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of extras are not needed."""
    wanted = ["no-such-package>=1", "numpy>=999", "torch", 'ruff>=999; extra == "dev"']
    monkeypatch.setattr(environment, "requires", lambda _name: wanted)
    missing, old = check("packages")
    assert missing.text == "no-such-package is not installed"
    assert old.remedy == "`pip install 'numpy>=999'`"


def test_torchvision_whose_operators_do_not_load_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is the error of a torchvision that was built for another torch."""

    def fail(*_arguments: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", fail)
    (finding,) = check("torch")
    assert finding.state == PROBLEM
    assert "torchvision::nms does not exist" in finding.text
    assert check("GPU") == []


def test_mlflow_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of its dependencies may be broken."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    (finding,) = check("packages")
    assert (finding.state, finding.exit_code) == (PROBLEM, 1)
    assert "cannot be imported" in finding.text


def test_missing_torchvision_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The import fails."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    (finding,) = check("torch")
    assert (finding.state, finding.exit_code) == (PROBLEM, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_driver_without_a_gpu_in_torch_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note gives torch's warning, such as that the driver is too old."""
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct\n")
    monkeypatch.setattr(environment, "_DRIVER_FILE", driver)
    monkeypatch.setattr(torch.version, "cuda", "12.8")

    def warn() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old", UserWarning, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn)
    (finding,) = check("GPU")
    assert finding.state == NOTE
    assert "470.82.01" in finding.text
    assert "too old" in finding.text
    monkeypatch.setattr(torch.version, "cuda", None)
    (finding,) = check("GPU")
    assert "built for CPUs only" in finding.text


def test_gpus_are_named_with_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal ones are counted."""
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Oct\n")
    monkeypatch.setattr(environment, "_DRIVER_FILE", driver)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "NVIDIA H100")
    (finding,) = check("GPU")
    assert (finding.state, finding.text) == (OK, "2 x NVIDIA H100, CUDA 12.8, driver 570.124.06")


@pytest.mark.parametrize(
    ("managers", "state"), [((), NOTE), (("uv",), NOTE), (("uv", "conda"), OK)]
)
def test_environment_managers_of_mlflow_run_are_listed(
    managers: tuple[str, ...], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without conda, `mlflow run` needs a flag."""
    for name in managers:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = check("uv, conda")
    assert finding.state == state
    assert ("--env-manager=local" in finding.remedy) == (state == NOTE)
    assert ("--env-manager=uv" in finding.remedy) == (managers == ("uv",))
