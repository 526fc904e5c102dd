"""The report of trialrun from `mlflow.models.evaluate`, on a real store."""

import io
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models.evaluation import evaluator_registry
from PIL import Image

import trialrun
from tests.conftest import SMALL
from trialrun.report.headlines import compute_averages
from trialrun.report.metrics import compute_metrics
from trialrun.report.predictions import Predictions, build_predictions
from trialrun.report.tables import compute_class_reports, confusion_matrix
from trialrun.runs.evaluation.plugin.evaluator import TrialrunEvaluator

GROUP, NAME = "mlflow.model_evaluator", "trialrun"
CLASSES = ("blue", "green", "red")
FILES = {
    "calibration.png",
    "confusion_matrix.csv",
    "confusion_matrix.png",
    "metrics.csv",
    "mistakes.csv",
    "per_class.csv",
    "report.html",
    "worst_mistakes.png",
}
pytestmark = [
    # raised by MLflow, by the libraries that it calls, and for its SQLite files
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Register the evaluator, also where trialrun was installed before it had the entry point."""
    registry = evaluator_registry._model_evaluation_registry
    before = dict(registry._registry)
    registry.register(NAME, TrialrunEvaluator)
    yield
    registry._registry = before


def make_frame(num_images: int = 30) -> pd.DataFrame:
    """Return noisy images of three colours with their labels, in a random order of the index."""
    random, rows = np.random.default_rng(3), []
    for number in range(num_images):
        pixels = random.integers(0, 90, (16, 16, 3))
        pixels[..., 2 - number % 3] += 100
        content = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(content, format="png")
        rows.append((content.getvalue(), CLASSES[number % 3]))
    return pd.DataFrame(rows, columns=["image", "label"]).sample(frac=1, random_state=1)


def draw_probabilities(num_images: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return random probabilities of three classes."""
    return np.random.default_rng(5).dirichlet(np.ones(3), num_images)


def predict(frame: pd.DataFrame) -> pd.DataFrame:
    """A model that guesses."""
    return pd.DataFrame(draw_probabilities(len(frame)), columns=list(CLASSES))


def evaluate(frame: pd.DataFrame, model: Any = predict, **arguments: Any) -> Any:
    """Call `mlflow.models.evaluate` with our evaluator."""
    values = {"targets": "label", "model_type": "classifier", "evaluators": NAME, **arguments}
    return mlflow.models.evaluate(model, frame, **values)


def build_expected(frame: pd.DataFrame) -> Predictions:
    """Return the predictions of `predict` for the frame."""
    probabilities = draw_probabilities(len(frame)).astype(np.float32)
    return build_predictions(list(frame["label"]), CLASSES, probabilities)


def test_report_has_metrics_with_intervals_and_files(store: str, tmp_path: Path) -> None:
    """They are those of trialrun, are in the run, and can be saved and loaded."""
    frame = make_frame()
    with mlflow.start_run() as active:
        result = evaluate(frame)
    assert result.run_id == active.info.run_id
    client = mlflow.MlflowClient(store)
    expected = compute_metrics(build_expected(frame))
    for name, value in expected.items():
        assert result.metrics[name] == pytest.approx(value, abs=1e-6)
        assert result.metrics[f"{name}_low"] < value < result.metrics[f"{name}_high"]
    stored = client.get_run(result.run_id).data
    assert stored.metrics == result.metrics
    assert "evaluation_report/per_class.json" in stored.tags["mlflow.loggedArtifacts"]
    files = {
        Path(item.path).name for item in client.list_artifacts(result.run_id, "evaluation_report")
    }
    assert files == FILES | {"per_class.json"}
    assert set(result.artifacts) == FILES
    assert "<h1>a model that MLflow does not store on" in result.artifacts["report.html"].content
    result.save(str(tmp_path / "saved"))
    loaded = mlflow.models.EvaluationResult.load(str(tmp_path / "saved"))
    assert loaded.metrics == result.metrics
    assert loaded.artifacts["worst_mistakes.png"].content.size[0] > 100


def test_predictions_in_the_data_agree_with_mlflow(store: str) -> None:
    """Accuracy, and weighted precision, recall and F1, equal those of MLflow's evaluator."""
    frame = make_frame(60)
    frame["predicted"] = np.random.default_rng(2).permutation(frame["label"])
    result = evaluate(frame, None, predictions="predicted", evaluators=["default", NAME])
    metrics = result.metrics
    assert metrics["accuracy"] == pytest.approx(metrics["accuracy_score"])
    assert "log_loss" not in metrics
    index_of = {name: index for index, name in enumerate(CLASSES)}
    labels, predicted = (
        np.array([index_of[name] for name in frame[column]]) for column in ("label", "predicted")
    )
    reports = compute_class_reports(confusion_matrix(labels, predicted, 3), CLASSES)
    weighted = compute_averages(reports)[1]
    assert weighted.precision == pytest.approx(metrics["precision_score"])
    assert weighted.recall == pytest.approx(metrics["recall_score"])
    assert weighted.f1 == pytest.approx(metrics["f1_score"])
    table = result.artifacts["per_class.csv"].content
    theirs = result.artifacts["per_class_metrics"].content
    for name in ("precision", "recall"):
        assert table[name].tolist() == pytest.approx(theirs[f"{name}_score"].tolist())


def test_probabilities_agree_with_mlflow() -> None:
    """MLflow's log loss of the same probabilities equals ours, and so does its accuracy."""
    from mlflow.models.evaluation.evaluators.classifier import _get_multiclass_classifier_metrics

    frame = make_frame(60)
    ours = compute_metrics(build_expected(frame))
    probabilities = draw_probabilities(len(frame))
    theirs = _get_multiclass_classifier_metrics(
        y_true=frame["label"].to_numpy(),
        y_pred=np.array(CLASSES)[probabilities.argmax(axis=1)],
        y_proba=probabilities,
        labels=np.array(CLASSES),
        average="macro",
    )
    assert ours["log_loss"] == pytest.approx(theirs["log_loss"], abs=1e-6)
    assert ours["accuracy"] == pytest.approx(theirs["accuracy_score"])
    assert ours["balanced_accuracy"] == pytest.approx(theirs["recall_score"])
    assert ours["macro_f1"] == pytest.approx(theirs["f1_score"])


def test_settings_are_those_of_evaluator_config(store: str) -> None:
    """A higher confidence and groups widen the interval; the prefix is before each name."""
    frame = make_frame()
    frame["patient"] = ["a", "b", "c"] * 10
    plain = evaluate(frame).metrics
    sure = evaluate(frame, evaluator_config={"confidence": 0.99, "metric_prefix": "test_"}).metrics
    grouped = evaluate(frame, evaluator_config={"group_column": "patient"}).metrics
    assert sure["test_accuracy"] == plain["accuracy"]
    assert sure["test_accuracy_low"] < plain["accuracy_low"]
    assert grouped["accuracy_low"] < plain["accuracy_low"]


@pytest.mark.parametrize(
    ("config", "message"),
    [({"confidence": 2}, "confidence=2 is not"), ({"group_column": "x"}, "no such column")],
)
def test_wrong_settings_are_refused(store: str, config: dict[str, Any], message: str) -> None:
    """The error says what to do."""
    with pytest.raises(MlflowException, match=message):
        evaluate(make_frame(6), evaluator_config=config)


def test_output_that_is_no_class_is_refused(store: str) -> None:
    """Logits are no probabilities."""
    with pytest.raises(MlflowException, match="the model returns negative values"):
        evaluate(make_frame(6), lambda frame: predict(frame) - 0.5)


def test_data_without_images_are_left_to_other_evaluators(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow calls every installed evaluator for a table of numbers, too."""
    frame = pd.DataFrame({"x": [1.0, 2.0], "label": ["a", "b"]})
    result = evaluate(frame, lambda frame: ["a"] * len(frame))
    assert result.metrics == {}
    assert "the data have no column 'image' of images" in caplog.text
    client = mlflow.MlflowClient(store)
    assert client.list_artifacts(result.run_id, "evaluation_report") == []


@pytest.mark.slow
def test_model_of_trialrun_has_the_metrics_of_evaluate(store: str, colors: Path) -> None:
    """The same images give the same metrics, intervals and Grad-CAM pictures."""
    trained = trialrun.train(
        train_data=str(colors), model=SMALL, epochs=1, batch_size=8, device="cpu"
    )
    paths = sorted(colors.glob("*/*.png"))
    rows = [(path.read_bytes(), path.parent.name) for path in paths]
    frame = pd.DataFrame(rows, columns=["image", "label"])
    result = evaluate(frame, str(trained.model_uri), predictions="Scored Labels")
    expected = trialrun.evaluate(str(trained.model_uri), str(colors), device="cpu")
    if expected.num_groups is None:
        assert result.metrics["accuracy_low"] == pytest.approx(expected.intervals["accuracy"].low)
    for name, value in expected.metrics.items():
        assert result.metrics[name] == pytest.approx(value, abs=1e-6)
    assert "worst_mistakes_heat.png" in result.artifacts


def test_entry_point_names_the_evaluator() -> None:
    """`pyproject.toml` declares it under the name that users give to `evaluators`."""
    root = Path(__file__).parents[4]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    target = project["entry-points"][GROUP][NAME]
    assert target == f"{TrialrunEvaluator.__module__}:{TrialrunEvaluator.__name__}"


def test_installed_entry_point_loads_the_evaluator() -> None:
    """MLflow finds it; an installation older than the entry point must be repeated."""
    [found] = entry_points(group=GROUP, name=NAME)
    assert found.load() is TrialrunEvaluator


def test_plug_in_does_not_slow_the_import_of_mlflow() -> None:
    """MLflow imports the module of the evaluator, which loads neither torch nor the report."""
    code = (
        "import sys, mlflow, trialrun.runs.evaluation.plugin.evaluator\n"
        "heavy = {'torch', 'torchvision', 'trialrun.report.document', 'optuna'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
