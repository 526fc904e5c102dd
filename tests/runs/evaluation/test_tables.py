"""File names in tables: exactly as on disk, so that a reader can open the files."""

import csv
import io
import json
import os
import unicodedata
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from safetensors.torch import save as to_bytes

import trialrun
from tests.conftest import write_classes, write_image
from trialrun.cli import run_cli
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models import directory
from trialrun.models.directory import ModelDescription
from trialrun.models.zoo.networks import build_network
from trialrun.runs.evaluation.predictions import load_predictions
from trialrun.runs.evaluation.tables import format_csv

NAMES = (
    "new\nline",
    "carriage\rreturn",
    "both\r\n",
    'quo"te',
    "com,ma",
    "emo\U0001f600ji",
    "e\u0301",  # decomposed
    "\u2028separator",
    "\x1b[31mred",
    "tab\there",
    " space ",
    "back\\slash\\n",
    "=1+1",
)
LABELS = sorted(unicodedata.normalize("NFC", name) for name in NAMES)  # as labels are stored
NOT_UTF8 = os.fsdecode(b"latin \xe9")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Write an untrained model directory; its classes contain a comma and a newline."""
    network = build_network("squeezenet1_1", 2, image_size=32)
    description = ModelDescription("squeezenet1_1", {}, ("com,ma", "new\nline"), Preprocessing(32))
    directory.write_model_directory(tmp_path / "model", description, to_bytes(network.state_dict()))
    return str(tmp_path / "model")


def write_named_classes(root: Path, names: tuple[str, ...]) -> Path:
    """Write one image per name, each in a class of that name."""
    for seed, name in enumerate(names):
        write_image(root / name / f"{name}.png", (200, 40, 40), seed=seed)
    return root


def check_names(root: Path, paths: list[str], names: tuple[str, ...]) -> None:
    """Check that the paths are those of `write_named_classes`, and that they open."""
    assert sorted(paths) == sorted(f"{name}/{name}.png" for name in names)
    assert all((root / path).read_bytes() for path in paths)


def test_names_in_scored_csv_open_the_files(model: str, tmp_path: Path) -> None:
    """The csv module and pandas read all special characters back."""
    data, output = write_named_classes(tmp_path / "data", NAMES), tmp_path / "scored.csv"
    trialrun.score(model, str(data), str(output))
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    check_names(data, [row["path"] for row in rows], NAMES)
    assert sorted(row["category"] for row in rows) == LABELS
    assert {"Scored Probabilities_new\nline", "Scored Probabilities_com,ma"} <= rows[0].keys()
    table = pd.read_csv(output)
    check_names(data, table["path"].tolist(), NAMES)
    assert table["Scored Probabilities_com,ma"].notna().all()


def test_names_in_scored_parquet_open_the_files(model: str, tmp_path: Path) -> None:
    """Parquet needs no quoting."""
    data, output = write_named_classes(tmp_path / "data", NAMES), tmp_path / "scored.parquet"
    trialrun.score(model, str(data), str(output))
    table = pd.read_parquet(output)
    check_names(data, table["path"].tolist(), NAMES)
    assert sorted(table["category"]) == LABELS


def test_plain_names_are_not_quoted(model: str, tmp_path: Path) -> None:
    """CSV quotes only what it must; lines end in a newline alone."""
    data, output = write_named_classes(tmp_path / "data", ("red", "blue")), tmp_path / "scored.csv"
    trialrun.score(model, str(data), str(output))
    written = output.read_bytes()
    assert b"\nblue/blue.png,0,blue,0." in written
    assert b"\nred/red.png,1,red,0." in written
    assert b"\r" not in written


def test_csv_keeps_the_bytes_of_names_that_are_not_utf8(model: str, tmp_path: Path) -> None:
    """Read with `surrogateescape`, the names open the files."""
    names = (NOT_UTF8, "plain", "new\nline")
    data, output = write_named_classes(tmp_path / "data", names), tmp_path / "scored.csv"
    trialrun.score(model, str(data), str(output))
    assert b"latin \xe9/latin \xe9.png," in output.read_bytes()
    with output.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        check_names(data, [row["path"] for row in csv.DictReader(file)], names)
    objects = {"path": object, "category": object}
    table = pd.read_csv(output, encoding_errors="surrogateescape", dtype=objects)
    check_names(data, table["path"].tolist(), names)


def test_names_that_are_not_utf8_are_escaped_in_parquet(model: str, tmp_path: Path) -> None:
    r"""Parquet is UTF-8 only: other bytes, and nothing else, become `\xe9`."""
    data, output = (
        write_named_classes(tmp_path / "data", (NOT_UTF8, "new\nline")),
        tmp_path / "s.parquet",
    )
    trialrun.score(model, str(data), str(output))
    paths = pd.read_parquet(output)["path"].tolist()
    assert sorted(paths) == ["latin \\xe9/latin \\xe9.png", "new\nline/new\nline.png"]


@pytest.mark.usefixtures("store")
def test_terminal_output_escapes_names(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name cannot move the cursor, color the text or start a line."""
    data = write_named_classes(tmp_path / "data", NAMES)
    for name in NAMES:
        (data / name / "broken\n\x1b[31m.png").write_bytes(b"no picture")
    assert run_cli(["score", model, str(data), "--output", str(tmp_path / "scored.csv")]) == 0
    assert run_cli(["data", "check", str(data)]) == 3
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "images are of class \\x1b[31mred, which the model does not know" in shown
    assert "broken\\n\\x1b[31m.png" in shown
    assert "\x1b" not in shown
    assert "\r" not in shown


def test_names_in_a_json_report_are_those_on_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`data check --json` gives names that a program can open."""
    data = write_classes(tmp_path / "data", {"a": 12, "b": 12})
    (data / "a" / "bro\nken.png").write_bytes(b"no picture")
    (data / "a" / "co\tpy.png").write_bytes((data / "b" / "000.png").read_bytes())
    assert run_cli(["data", "check", str(data), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["sets"][0]["skipped"]) == ["a/bro\nken.png"]
    assert sorted(report["findings"]["conflicting"][0]) == [
        ["a/co\tpy.png", "a"],
        ["b/000.png", "b"],
    ]


def test_names_in_an_image_directorys_manifest_are_those_on_disk(tmp_path: Path) -> None:
    """`source` opens the original file, also if its name is not UTF-8."""
    names = ("new\nline", NOT_UTF8)
    data = write_named_classes(tmp_path / "data", names)
    assert run_cli(["data", "convert", str(data), str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    check_names(data, [json.loads(line)["source"] for line in lines], names)


@pytest.mark.slow
def test_names_in_a_run_agree(store: str, tmp_path: Path) -> None:
    """`predictions.parquet`, `manifest.jsonl` and `skipped.csv` have the names on disk."""
    data = write_classes(tmp_path / "data", {"a": 12, "b": 12})
    for label in "ab":
        for number in range(3):
            (data / label / f"00{number}.png").rename(data / label / f"{number}\n\r,.png")
    (data / "a" / "bro\rken.png").write_bytes(b"no picture")
    trained = trialrun.train(
        train_data=str(data), model="squeezenet1_1", epochs=1, batch_size=8, valid_fraction=0.5
    )
    client = mlflow.MlflowClient(store)
    folder = Path(client.download_artifacts(trained.run_id, "", str(tmp_path)))
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    good = [row for row in rows if row["set"] == "valid" and not row["skipped"]]
    trained_predictions = load_predictions(client, trained.run_id)
    assert trained_predictions is not None
    assert sorted(trained_predictions.names) == sorted(row["name"] for row in good)
    assert any("\n" in name for name in trained_predictions.names)
    assert all((data / name).is_file() for name in trained_predictions.names)
    with (folder / "skipped.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["a/bro\rken.png"]
    evaluation = trialrun.evaluate(str(trained.model_uri), str(data))
    evaluated_predictions = load_predictions(client, evaluation.run_id)
    assert evaluated_predictions is not None
    assert set(trained_predictions.names) <= set(evaluated_predictions.names)


@pytest.mark.parametrize("name", NAMES)
def test_csv_tables_of_runs_read_back(name: str) -> None:
    """A name with a carriage return may also be the heading of a column."""
    rows = [{"name": name, name: "1"}]
    assert list(csv.DictReader(io.StringIO(format_csv(rows), newline=""))) == rows


def test_csv_tables_of_runs_escape_bytes_that_are_not_utf8() -> None:
    """MLflow stores text as UTF-8."""
    assert format_csv([{"name": NOT_UTF8}]) == "name\nlatin \\xe9\n"
