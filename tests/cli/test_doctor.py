"""`trialrun doctor` on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import trialrun
from tests.runs.recovery.doctor.left_runs import leave_run, read_run
from trialrun.cli import run_cli


def test_healthy_machine_exits_with_0(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each check has a row, and there is no error."""
    assert run_cli(["doctor", "--checkpoint-dir", str(tmp_path)]) == 0
    out, error = capsys.readouterr()
    assert store in out
    assert error == ""
    assert "problem" not in out


def test_stale_run_exits_with_5_until_it_is_fixed(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The row names the run; `--fix` says what it did, and the second time that it did nothing."""
    run_id = leave_run(store, tmp_path)
    arguments = ["doctor", "--checkpoint-dir", str(tmp_path)]
    assert run_cli(arguments) == 5
    out, error = capsys.readouterr()
    assert f"{run_id} (left) says RUNNING" in " ".join(out.split())
    assert "Error: TrackingError: 1 problem was found: runs" in error
    assert "--fix" in error
    assert run_cli([*arguments, "--fix"]) == 0
    out, error = capsys.readouterr()
    assert out.startswith(f"Repair: run {run_id} (left): ended as KILLED")
    assert read_run(store, run_id).info.status == "KILLED"
    assert run_cli([*arguments, "--fix"]) == 0
    assert "Nothing to repair." in capsys.readouterr().err


def test_json_is_one_object(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows have the ids of runs and the exit codes."""
    run_id = leave_run(store, tmp_path)
    assert run_cli(["doctor", "--json", "--checkpoint-dir", str(tmp_path)]) == 5
    values = json.loads(capsys.readouterr().out)
    assert not values["is_well"]
    assert values["repairs"] == []
    (problem,) = [row for row in values["findings"] if row["state"] == "problem"]
    assert (problem["run_id"], problem["exit_code"], problem["is_fixable"]) == (run_id, 5, True)


def test_table_fits_in_a_narrow_terminal(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only paths, addresses and commands, which are not broken, may be longer than a line."""
    monkeypatch.setenv("COLUMNS", "70")
    run_id = leave_run(store, tmp_path)
    run_cli(["doctor", "--checkpoint-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    indent = len("tracking store  problem  ")
    assert all(len(line) <= 70 or len(line[indent:].split()) == 1 for line in lines)
    assert any(run_id in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["torchvision", "mlflow"])
def test_broken_package_is_reported_without_a_traceback(package: str, tmp_path: Path) -> None:
    """No module of the command imports it before the check."""
    (tmp_path / package).mkdir()
    source = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / package / "__init__.py").write_text(source)
    paths = f"{tmp_path}{os.pathsep}{Path(trialrun.__file__).parents[1]}"
    result = subprocess.run(
        [sys.executable, "-m", "trialrun", "doctor"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "torchvision::nms does not exist" in " ".join(result.stdout.split())
    assert result.stderr.startswith("Error: TrialrunError: 1 problem was found: ")
    assert len(result.stderr.splitlines()) == 2
