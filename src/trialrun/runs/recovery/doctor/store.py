"""Check of the tracking store, and of the registry if it is another one."""

import os
from dataclasses import dataclass

from trialrun.errors import TrackingError
from trialrun.mlflow_client import StoreState, describe_store
from trialrun.runs.recovery.doctor.findings import (
    PROBLEM,
    Finding,
    report_ok,
    report_problem,
)

_DATABASES = ("sqlite", "postgresql")
_REGISTRY_VARIABLE = "MLFLOW_REGISTRY_URI"


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """The findings about the stores, and whether the tracking store can be read.

    A store that the next run creates is without a problem, but there is nothing to read.
    """

    findings: list[Finding]
    has_runs: bool


def check_stores() -> StoreCheck:
    """Check the tracking store, and a registry of its own; nothing is created or changed."""
    import mlflow

    state = describe_store(mlflow.get_tracking_uri())
    finding = _judge("tracking store", state)
    has_tables = state.kind not in _DATABASES or state.version is not None
    findings = [finding]
    if registry := os.environ.get(_REGISTRY_VARIABLE):
        findings.append(_judge("model registry", describe_store(registry)))
    return StoreCheck(findings, finding.state != PROBLEM and has_tables)


def _judge(name: str, state: StoreState) -> Finding:
    text = f"{state.address}: {state.message}"
    if state.remedy or not state.is_reachable:
        message = state.message if state.address in state.message else text
        return report_problem(name, message, state.remedy, TrackingError)
    is_revision = state.kind != "server" and state.version is not None
    return report_ok(name, f"{text} ({state.version})" if is_revision else text)
