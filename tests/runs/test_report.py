"""Reports among the artifacts of trainings and evaluations, on a real store."""

from pathlib import Path

import mlflow
import pandas as pd
import pytest

import trialrun
from tests.conftest import write_classes

FILES = {
    "calibration.png",
    "confusion_matrix.png",
    "metrics.csv",
    "mistakes.csv",
    "report.html",
    "worst_mistakes.png",
    "worst_mistakes_heat.png",
}


def list_report(client: mlflow.MlflowClient, run_id: str) -> set[str]:
    """Return the names of the report's files."""
    return {Path(file.path).name for file in client.list_artifacts(run_id, "report")}


@pytest.mark.report
def test_training_and_evaluation_store_a_report(store: str, colors: Path, tmp_path: Path) -> None:
    """Class names with any characters are fine, and all mistakes are listed."""
    classes = {"red/\U0001f534": 12, "$x$": 12, "y" * 200: 12}
    data = tmp_path / "data"
    names = write_classes(data, {"a": 12, "b": 12, "c": 12})
    rows = [
        {"file_name": f"{letter}/{path.name}", "label": label}
        for letter, label in zip("abc", classes, strict=True)
        for path in sorted((names / letter).iterdir())
    ]
    pd.DataFrame(rows).to_csv(data / "metadata.csv", index=False)
    trained = trialrun.train(
        train_data=str(data), model="shufflenet_v2_x0_5", epochs=1, batch_size=8, valid_fraction=0.5
    )
    client = mlflow.MlflowClient(store)
    found = list_report(client, trained.run_id)
    assert found == FILES | {"curves.png", "accuracy_over_time.png"}

    evaluation = trialrun.evaluate(str(trained.model_uri), str(data))
    assert list_report(client, evaluation.run_id) == FILES
    predictions = pd.read_parquet(
        client.download_artifacts(evaluation.run_id, "predictions.parquet")
    )
    mistakes = pd.read_csv(client.download_artifacts(evaluation.run_id, "report/mistakes.csv"))
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    assert set(mistakes["name"]) == set(wrong["name"])


@pytest.mark.report
def test_report_can_be_left_out(store: str, colors: Path) -> None:
    """With report=false nothing is drawn."""
    trained = trialrun.train(
        train_data=str(colors), model="shufflenet_v2_x0_5", epochs=1, batch_size=8, report=False
    )
    assert list_report(mlflow.MlflowClient(store), trained.run_id) == set()


@pytest.mark.slow
@pytest.mark.report
def test_audit_lists_changed_labels_with_thumbnails(store: str, colors: Path) -> None:
    """Both reports have the table; an image in the folder of another class is in it."""
    trained = trialrun.train(
        train_data=str(colors),
        valid_data=str(colors),
        model="shufflenet_v2_x0_5",
        epochs=10,
        batch_size=8,
        learning_rate=0.002,
        precision="fp32",
        audit=True,
    )
    (colors / "red" / "000.png").rename(colors / "blue" / "red.png")
    client = mlflow.MlflowClient(store)
    evaluation = trialrun.evaluate(str(trained.model_uri), str(colors), audit=True)
    suspects = {}
    for run_id in (trained.run_id, evaluation.run_id):
        table = pd.read_csv(client.download_artifacts(run_id, "report/label_errors.csv"))
        page = Path(client.download_artifacts(run_id, "report/report.html")).read_text()
        assert "Suspected label errors" in page
        assert page.count("<td><img") == len(table)
        suspects[run_id] = set(table["name"])
    assert "blue/red.png" in suspects[evaluation.run_id]
