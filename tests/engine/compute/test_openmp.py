"""Tests of OpenMP's spin count in commands and in library calls."""

import os
import subprocess
import sys

import pytest

from trialrun.engine.compute.openmp import limit_spinning, limit_spinning_temporarily


def test_user_setting_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spin count or wait policy that the user has set is not replaced."""
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "77"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_commands_limit_spinning() -> None:
    """Every command sets the spin count before torch can be loaded."""
    code = (
        "import sys, os; sys.argv = ['trialrun', '--version']\n"
        "from trialrun.cli import main\n"
        "try:\n main()\n"
        "except SystemExit:\n print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    completed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert completed.stdout.splitlines()[-1] == "1500 False"


def test_library_call_restores_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is set while torch may be loaded, and removed afterwards."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with limit_spinning_temporarily():
        assert os.environ["GOMP_SPINCOUNT"] == "1500"
    assert "GOMP_SPINCOUNT" not in os.environ
