"""The check of the tracking store and the registry."""

from pathlib import Path

import mlflow
import pytest

from tests.mlflow_client.databases import set_revision
from tests.servers import find_free_port, start_server
from trialrun.runs.recovery.doctor.examination import diagnose
from trialrun.runs.recovery.doctor.findings import OK, PROBLEM
from trialrun.runs.recovery.doctor.store import check_stores


def test_store_that_works_is_well(store: str) -> None:
    """Its schema is named."""
    (finding,) = check_stores().findings
    assert finding.state == OK
    assert store in finding.text


def test_missing_store_is_well_and_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run creates it; a check changes nothing."""
    path = tmp_path / "new.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    findings = diagnose(str(tmp_path)).findings
    assert all(finding.state != PROBLEM for finding in findings)
    assert list(tmp_path.iterdir()) == []


def test_database_without_tables_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is what a run does."""
    path = tmp_path / "empty.db"
    path.touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    findings = diagnose(str(tmp_path), fix=True).findings
    assert all(finding.state != PROBLEM for finding in findings)
    assert path.stat().st_size == 0


@pytest.mark.parametrize("fix", [False, True])
def test_server_that_does_not_answer_is_a_tracking_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fix: bool
) -> None:
    """The other checks that need no store are done, and `--fix` does what it can."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{find_free_port()}")
    diagnosis = diagnose(str(tmp_path), fix=fix)
    problems = [finding for finding in diagnosis.findings if finding.state == PROBLEM]
    assert [(item.name, item.exit_code) for item in problems] == [("tracking store", 5)]
    assert "does not answer" in problems[0].text
    assert "runs" in [item.name for item in diagnosis.findings]
    assert diagnosis.repairs == []


def test_newer_schema_and_registry_of_its_own_are_named(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each store has a row."""
    assert mlflow.MlflowClient(store).search_experiments()
    set_revision(store, "abcdef")
    with start_server(200, version="2.22.0") as port:
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://127.0.0.1:{port}")
        tracking, registry = check_stores().findings
    assert "does not know" in tracking.text
    assert "pip install --upgrade mlflow" in tracking.remedy
    assert (registry.name, registry.state) == ("model registry", PROBLEM)
    assert "2.22.0" in registry.text
