"""Models whose upload was interrupted."""

from pathlib import Path

import mlflow

from tests.runs.recovery.doctor.left_runs import leave_run, read_run
from trialrun.runs.recovery.doctor.examination import diagnose
from trialrun.runs.recovery.doctor.findings import NOTE


def test_incomplete_models_of_ended_runs_are_noted(store: str, tmp_path: Path) -> None:
    """Those that are ready are not."""
    client = mlflow.MlflowClient(store)
    run_id = leave_run(store, tmp_path)
    client.set_terminated(run_id, "KILLED")
    experiment_id = read_run(store, run_id).info.experiment_id
    models = [
        client.create_logged_model(experiment_id, name="model", source_run_id=run_id)
        for _ in range(3)
    ]
    client.finalize_logged_model(models[0].model_id, "READY")
    client.finalize_logged_model(models[1].model_id, "FAILED")
    notes = [item for item in diagnose(str(tmp_path)).findings if item.name == "models"]
    assert [(note.state, note.run_id) for note in notes] == [(NOTE, run_id), (NOTE, run_id)]
    texts = {note.text.split()[0]: note.text for note in notes}
    assert "is FAILED: its upload failed" in texts[models[1].model_id]
    assert "is PENDING: its upload was interrupted" in texts[models[2].model_id]
    assert f"trialrun resume {run_id}" in notes[0].remedy
