"""Models that an interrupted upload left incomplete."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from trialrun.mlflow_client import translate_tracking_errors
from trialrun.runs.recovery.doctor.findings import Finding, report_note

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODELS = "models"
_CAUSES = {"PENDING": "its upload was interrupted", "FAILED": "its upload failed"}
_MAX_IDS = 100  # in one search


def check_models(client: "MlflowClient", run_ids: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a note for each incomplete model of runs which no process works on.

    Args:
        client: The client of the store.
        run_ids: The ids of the runs, with those of their experiments.

    Raises:
        TrackingError: The store fails.
    """
    ids, experiments = list(run_ids), list(dict.fromkeys(run_ids.values()))
    for start in range(0, len(ids), _MAX_IDS):
        quoted = ", ".join(f"'{run_id}'" for run_id in ids[start : start + _MAX_IDS])
        with translate_tracking_errors("models cannot be listed"):
            models = client.search_logged_models(experiments, f"source_run_id IN ({quoted})")
        for model in models:
            if cause := _CAUSES.get(str(model.status)):
                run_id = model.source_run_id
                text = f"{model.model_id} of run {run_id} is {model.status}: {cause}"
                remedy = f"`trialrun sync`, or `trialrun resume {run_id}`, completes it."
                yield report_note(MODELS, text, remedy, run_id=run_id)
