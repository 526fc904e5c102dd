"""Check of the tracking store, and of the registry if it is another one."""

import os
from collections.abc import Iterator

from trialrun.errors import TrackingError
from trialrun.mlflow_client import StoreState, describe_store
from trialrun.runs.recovery.doctor.findings import Finding, report_ok, report_problem

STORE = "tracking store"
_REGISTRY_VARIABLE = "MLFLOW_REGISTRY_URI"


def check_stores() -> Iterator[Finding]:
    """Yield the states of the tracking store, which comes first, and of a registry of its own."""
    import mlflow

    yield _judge(STORE, describe_store(mlflow.get_tracking_uri()))
    if registry := os.environ.get(_REGISTRY_VARIABLE):
        yield _judge("model registry", describe_store(registry))


def _judge(name: str, state: StoreState) -> Finding:
    text = f"{state.address}: {state.message}"
    if state.remedy or not state.is_reachable:
        message = state.message if state.address in state.message else text
        return report_problem(name, message, state.remedy, TrackingError)
    is_revision = state.kind != "server" and state.version is not None
    return report_ok(name, f"{text} ({state.version})" if is_revision else text)
