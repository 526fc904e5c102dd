"""Checks of the disks."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from trialrun.runs.recovery.doctor.disks import check_disks
from trialrun.runs.recovery.doctor.findings import OK, PROBLEM, Finding


def set_free_gb(monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    """Set the free space of all disks."""
    usage = SimpleNamespace(free=int(gigabytes * 1e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)


def check(largest_checkpoint_bytes: int = 0, folder: str | None = None) -> list[Finding]:
    """Return the findings about disk space."""
    findings = check_disks(folder, largest_checkpoint_bytes)
    return [finding for finding in findings if finding.name == "disk space"]


def test_each_disk_is_named_once_with_its_uses(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here all folders are on one disk; those that do not exist yet count as well."""
    set_free_gb(monkeypatch, 5)
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "new" / "cache"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (finding,) = check()
    assert finding.state == OK
    folder = store.removeprefix("sqlite:///").rpartition("/")[0]
    uses = "store, run folders, cache, temporary files"
    assert finding.text == f"5.0 GB free at {folder} ({uses})"


@pytest.mark.parametrize(
    ("free_gb", "checkpoint_gb", "state"),
    [(1.9, 0, PROBLEM), (2.1, 0, OK), (2.1, 1.0, OK), (2.1, 1.1, PROBLEM)],
)
@pytest.mark.usefixtures("store")
def test_a_disk_needs_space_for_two_checkpoints(
    free_gb: float, checkpoint_gb: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And 2 GB in any case."""
    set_free_gb(monkeypatch, free_gb)
    for finding in check(int(checkpoint_gb * 1e9)):
        assert finding.state == state
        assert finding.exit_code == (6 if state == PROBLEM else 0)


@pytest.mark.usefixtures("store")
def test_folder_that_is_not_writable_is_a_storage_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remedy names the variable that moves it."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    may = os.access
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path and may(path, mode))
    findings = [item for item in check_disks(None, 0) if item.name == "folders"]
    (finding,) = findings
    assert (finding.state, finding.exit_code) == (PROBLEM, 6)
    assert str(tmp_path / "cache") in finding.text
    assert "TRIALRUN_CACHE" in finding.remedy
