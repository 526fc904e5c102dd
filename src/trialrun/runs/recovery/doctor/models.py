"""Models that an interrupted upload left incomplete."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trialrun.mlflow_client import translate_tracking_errors
from trialrun.runs.recovery.doctor.findings import Finding, report_note

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODELS = "models"
_INCOMPLETE = ("PENDING", "FAILED")


def check_models(client: "MlflowClient", run_ids: Sequence[str]) -> Iterator[Finding]:
    """Yield a note for each incomplete model of these runs, which no process works on.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors("models cannot be listed"):
        for run_id in run_ids:
            run = client.get_run(run_id)
            models = client.search_logged_models(
                [run.info.experiment_id], f"source_run_id = '{run_id}'"
            )
            for model in models:
                if str(model.status) in _INCOMPLETE:
                    yield report_note(
                        MODELS,
                        f"{model.model_id} of run {run_id} is {model.status}: its upload was "
                        "interrupted",
                        f"`trialrun sync`, or `trialrun resume {run_id}`, completes it.",
                        run_id=run_id,
                    )
