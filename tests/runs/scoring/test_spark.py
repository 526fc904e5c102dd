"""Scoring with Spark in local mode: the table of `score`, and scores of a data frame."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import trialrun
from tests.conftest import SMALL, write_model
from tests.system.conftest import skip_unless_ci
from trialrun.errors import InvalidParameterError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.formats.sample import write_sample
from trialrun.runs.scoring import spark as spark_scoring
from trialrun.scoring.scores import LABEL_COLUMN

CLASSES = tuple("0123456789")
MASTER = "local[2]"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a model directory for the digits."""
    folder = tmp_path_factory.mktemp("model") / "model"
    write_model(folder, SMALL, CLASSES, Preprocessing(32))
    return str(folder)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, cache_folder: Path) -> Path:
    """Copy some of the sample digits; add a broken image and names that need care."""
    folder = tmp_path_factory.mktemp("digits")
    paths = sorted(write_sample("sample:digits", cache_folder).rglob("*.png"))
    for number, path in enumerate(paths):
        if number % 20 == 0:
            (folder / path.parent.name).mkdir(exist_ok=True)
            (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    (folder / "3" / "bro\nken,.png").write_bytes(b"no picture")
    (folder / "9" / os.fsdecode(b"latin \xe9.png")).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    """Open a Spark session, which `score` then uses too; skip without Spark."""
    pytest.importorskip("pyspark")
    try:
        with spark_scoring.open_session(MASTER) as session:
            yield session
    except InvalidParameterError as error:
        skip_unless_ci(str(error))


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of scores, with the bytes of its names."""
    objects = {"path": object, LABEL_COLUMN: object}
    return pd.read_csv(path, encoding_errors="surrogateescape", dtype=objects)


@pytest.mark.slow
def test_spark_scores_equal_local_scores(
    session: Any, model: str, digits: Path, tmp_path: Path
) -> None:
    """The same table within 1e-5, one row with an error included; a data frame of bytes too."""
    local, spread = tmp_path / "local.csv", tmp_path / "spark.csv"
    trialrun.score(model, str(digits), str(local), device="cpu", top_k=2)
    result = trialrun.score(model, str(digits), str(spread), device="cpu", top_k=2, spark=MASTER)
    expected, table = read_table(local), read_table(spread)
    pd.testing.assert_frame_equal(table, expected, rtol=0, atol=1e-5)
    assert (result.num_images, result.num_errors) == (len(expected), 1)

    rows = expected[expected["path"].str.startswith("3/")]
    frame = session.createDataFrame(
        [(name, bytearray((digits / name).read_bytes())) for name in rows["path"]],
        "name string, image binary",
    )
    scored = {row["name"]: row for row in trialrun.score_frame(frame, model).collect()}
    columns = [f"Scored Probabilities_{name}" for name in CLASSES]
    for _, row in rows.iterrows():
        found = scored[row["path"]]
        if row["path"] == "3/bro\nken,.png":
            assert found["error"] == row["error"]
            assert found[LABEL_COLUMN] is None
            continue
        assert found[LABEL_COLUMN] == row[LABEL_COLUMN]
        assert [found[name] for name in columns] == pytest.approx(row[columns].tolist(), abs=1e-5)


def test_missing_pyspark_is_one_line(
    model: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint says which extra to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyspark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(InvalidParameterError, match="needs the package pyspark") as raised:
        spark_scoring.open_session(MASTER).__enter__()
    assert raised.value.hint == "Install it: pip install 'trialrun[spark]'"


def test_missing_java_is_one_line(
    model: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spark's own message for this is a traceback."""
    pytest.importorskip("pyspark")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    output = str(tmp_path / "scored.csv")
    with pytest.raises(InvalidParameterError, match="needs Java"):
        trialrun.score(model, str(digits), output, spark=MASTER)
    assert not list(tmp_path.glob(".*"))
