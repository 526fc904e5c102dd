"""A store written before the packages were renamed: its registry, study and models are read.

`tests/data/store_of_0.1.0.tar.xz` was written by trialrun at commit 6bd054d in /tmp/fixture: two
versions of the model `colors`, a promotion of each and a rollback; the study `old` of two trials,
two thirds of a grid; the images, and the scores of version 1.
"""

import csv
import json
import sqlite3
import tarfile
from pathlib import Path

import pytest

import trialrun
from tests.conftest import SAFE_EXTRACTION
from trialrun.cli import run_cli
from trialrun.errors import InvalidParameterError

ARCHIVE = Path(__file__).parents[1] / "data" / "store_of_0.1.0.tar.xz"
WRITTEN_IN = "/tmp/fixture"  # the folder that the stored paths name
PATHS = (
    ("runs", "artifact_uri"),
    ("experiments", "artifact_location"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
SEARCH = {
    "model": "shufflenet_v2_x0_5",
    "train_data": "train",
    "valid_data": "valid",
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
    "device": "cpu",
    "image_size": 32,
    "learning_rate": "1e-3,1e-2,1e-1",
    "sampler": "grid",
    "pruner": "none",
    "study": "old",
}


@pytest.fixture
def older_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a copy of the store, which is the current folder and the tracking store."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, **SAFE_EXTRACTION)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        for table, column in PATHS:
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (WRITTEN_IN, str(tmp_path)),
            )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_promotion_history_of_an_older_store_is_read(
    older_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each holder of the alias is listed with the dates, reasons and figures written then."""
    written = json.loads((older_store / "history.json").read_text())
    assert run_cli(["history", "colors", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    for period, reign in zip(read["periods"], written["reigns"], strict=True):
        assert {key: period[key] for key in reign} == reign
    assert (read["holder"], read["previous"]) == (written["holder"], written["previous"])


@pytest.mark.slow
def test_alias_of_an_older_store_is_moved(older_store: Path) -> None:
    """A rollback continues the history that the older version began."""
    trialrun.promote("colors", 2, "valid", margin=1.0, reason="again", allow_overlap=True)
    trialrun.rollback("colors", "and back")
    history = trialrun.history("colors")
    assert [period.version for period in history.periods] == ["1", "2", "1", "2", "1"]


def test_model_of_an_older_store_scores_as_before(older_store: Path) -> None:
    """The model directory is opened, and its probabilities are those of then within 1e-6."""
    trialrun.score("models:/colors/1", "valid", "again.csv")
    with Path("scored.csv").open() as then, Path("again.csv").open() as now:
        pairs = list(zip(csv.DictReader(then), csv.DictReader(now), strict=True))
    assert len(pairs) == 12
    for before, after in pairs:
        for name, text in before.items():
            if name.startswith("Scored Probabilities"):
                assert float(after[name]) == pytest.approx(float(text), abs=1e-6)
            else:
                assert after[name] == text


def test_model_of_an_older_store_is_loaded_by_mlflow(older_store: Path) -> None:
    """MLflow imports the code that the model directory carries, under the name it has there."""
    import mlflow
    import pandas as pd

    with Path("scored.csv").open() as then:
        first = next(csv.DictReader(then))
    images = pd.DataFrame({"image": [Path("valid", first["path"]).read_bytes()]})
    served = mlflow.pyfunc.load_model("models:/colors/1")
    assert list(served.predict(images)["Scored Labels"]) == [first["Scored Labels"]]


def test_study_of_an_older_store_is_continued(older_store: Path) -> None:
    """The third point of the grid is trained; the two trials of then are kept.

    Defaults that have changed since are named, and must be given.
    """
    with pytest.raises(InvalidParameterError, match="clip_grad_norm=none, weights=none"):
        trialrun.search(**SEARCH, trials=3)  # type: ignore[arg-type]
    before = {"clip_grad_norm": "none", "weights": "none"}
    found = trialrun.search(**SEARCH, **before, trials=3)  # type: ignore[arg-type]
    assert found.num_trials["complete"] == 3
    assert found.search_stop_reason == "completed"
