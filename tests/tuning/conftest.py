"""Searches that take seconds, and a study's desk without any training: for tests of search."""

from pathlib import Path
from typing import Any

from trialrun.tuning.plan import plan_search
from trialrun.tuning.study.storage import open_storage
from trialrun.tuning.study.study import open_study, open_trial_queue
from trialrun.tuning.study.trial_queue import ClaimedTrial, TrialQueue

SMALL: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "precision": "fp32",
    "device": "cpu",
    "batch_size": 16,
}


def settings(colors: Path, **more: Any) -> dict[str, Any]:
    """A search that takes seconds."""
    return {"train_data": str(colors), "epochs": 1, **SMALL, "learning_rate": "1e-3:1e-1", **more}


def nested_runs(store: str, parent_run_id: str) -> list[Any]:
    """The runs below a search's, by trial."""
    import mlflow

    client = mlflow.MlflowClient(store)
    experiment = client.get_run(parent_run_id).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent_run_id}'")
    return sorted(runs, key=lambda run: int(run.data.tags["trial"]))


def make_queue(store: str, colors: Path, **more: Any) -> TrialQueue:
    """The desk of a new study beside `store`, for trials that train nothing."""
    plan = plan_search(settings(colors, **more))
    storage = open_storage(store.replace("mlflow.db", "optuna.db"), heartbeat_seconds=1)
    study = open_study(storage, plan.config.study or "desk", plan)
    return open_trial_queue(storage, study, plan, deadline=None, on_stale=lambda _trial: None)


def claim_next(queue: TrialQueue) -> ClaimedTrial:
    """The next trial, which must be there."""
    claim = queue.claim("tester")
    assert isinstance(claim, ClaimedTrial)
    return claim
