"""Settings of short searches, and trial queues without training, for tests of tuning."""

from pathlib import Path
from typing import Any

from trialrun.tuning.plan import plan_search
from trialrun.tuning.study.claims import ClaimedTrial
from trialrun.tuning.study.storage import open_storage
from trialrun.tuning.study.study import open_study, open_trial_queue
from trialrun.tuning.study.trial_queue import TrialQueue

SMALL: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "precision": "fp32",
    "device": "cpu",
    "batch_size": 16,
}


def settings(colors: Path, **more: Any) -> dict[str, Any]:
    """Return the settings of a search that takes seconds."""
    own = {"epochs": 1, "workers": 1, "learning_rate": "1e-3:1e-1"}
    return {"train_data": str(colors), **SMALL, **own, **more}


def nested_runs(store: str, parent_run_id: str) -> list[Any]:
    """Return the nested runs of a search by trial number."""
    import mlflow

    client = mlflow.MlflowClient(store)
    experiment = client.get_run(parent_run_id).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent_run_id}'")
    return sorted(runs, key=lambda run: int(run.data.tags["trial"]))


def make_queue(store: str, colors: Path, **more: Any) -> TrialQueue:
    """Return the trial queue of a study beside `store`, for trials without training."""
    plan = plan_search(settings(colors, **more))
    storage = open_storage(store.replace("mlflow.db", "optuna.db"), heartbeat_seconds=1)
    study = open_study(storage, plan.config.study or "queue", plan)
    return open_trial_queue(
        storage, study, plan, deadline=None, on_stale=lambda _trial, _is_retried: None
    )


def claim_next(queue: TrialQueue) -> ClaimedTrial:
    """Claim the next trial; fail if there is none."""
    claim = queue.claim("tester")
    assert isinstance(claim, ClaimedTrial)
    return claim
