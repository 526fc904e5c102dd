"""Drafts: a killed process is continued, and the result is that of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from safetensors.torch import save as to_bytes

import trialrun
from tests.conftest import write_classes
from trialrun.config.keywords import ScoreKeywords
from trialrun.errors import StorageError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models import directory
from trialrun.models.directory import ModelDescription
from trialrun.models.zoo.networks import build_network

# Scores like `trialrun.score`, but writes every row at once and takes 20 ms per image.
SLOWED = """
import sys, time, trialrun
from trialrun.runs.scoring import job, score
job._FLUSH_ROWS = 1
decode = score.decode_file
def slow(*arguments):
    time.sleep(0.02)
    return decode(*arguments)
score.decode_file = slow
trialrun.score(*sys.argv[1:4], device="cpu", batch_size=2, embeddings=sys.argv[4], top_k=2)
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Write the model directory of an untrained network."""
    network = build_network("squeezenet1_1", 2, image_size=32)
    description = ModelDescription("squeezenet1_1", {}, ("blue", "red"), Preprocessing(32))
    directory.write_model_directory(tmp_path / "model", description, to_bytes(network.state_dict()))
    return str(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write 80 images, one of which is broken."""
    folder = write_classes(tmp_path / "data", {"blue": 40, "red": 39})
    (folder / "red" / "broken\n.png").write_bytes(b"no picture")
    return folder


def kill_when_rows_exist(model: str, data: Path, output: Path, embeddings: Path) -> int:
    """Score in a process of its own, kill it by SIGKILL, and return the rows it recorded."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWED, model, str(data), str(output), str(embeddings)]
    )
    progress = output.with_name(f".{output.name}.draft") / "progress.json"
    try:
        while process.poll() is None:
            if progress.exists() and (rows := json.loads(progress.read_text())["num_rows"]) >= 20:
                os.kill(process.pid, signal.SIGKILL)
                return int(rows)
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    raise AssertionError("the process ended before it was killed")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_killed_scoring_is_continued(model: str, data: Path, tmp_path: Path, suffix: str) -> None:
    """The table equals that of an undisturbed call; no file has the final name before the end."""
    output, embeddings = tmp_path / f"scored{suffix}", tmp_path / "features.parquet"
    num_rows = kill_when_rows_exist(model, data, output, embeddings)
    assert not output.exists()
    assert not embeddings.exists()

    settings: ScoreKeywords = {"batch_size": 2, "top_k": 2, "device": "cpu"}
    settings["embeddings"] = str(embeddings)
    result = trialrun.score(model, str(data), str(output), **settings)
    assert num_rows <= result.num_continued < result.num_images == 80
    assert result.num_errors == 1
    whole, other = tmp_path / f"whole{suffix}", tmp_path / "whole_features.parquet"
    settings["embeddings"] = str(other)
    trialrun.score(model, str(data), str(whole), **settings)
    if suffix == ".csv":
        assert output.read_bytes() == whole.read_bytes()
    else:
        pd.testing.assert_frame_equal(pd.read_parquet(output), pd.read_parquet(whole))
    pd.testing.assert_frame_equal(pd.read_parquet(embeddings), pd.read_parquet(other))
    assert not list(tmp_path.glob(".*"))


def leave_draft(folder: Path, identity: str) -> None:
    """Write a draft as an interrupted process leaves it, with one row of other work."""
    folder.mkdir()
    (folder / "table").write_bytes(b"path\nwrong.png\n")
    progress = {
        "identity": identity,
        "batch_size": 1,
        "num_rows": 1,
        "num_errors": 0,
        "num_bytes": {"table": 15},
    }
    (folder / "progress.json").write_text(json.dumps(progress))


def test_draft_of_other_work_is_started_over(model: str, data: Path, tmp_path: Path) -> None:
    """A draft of another model, of other settings or names is not continued."""
    leave_draft(tmp_path / ".scored.csv.draft", "0" * 64)
    result = trialrun.score(model, str(data), str(tmp_path / "scored.csv"), device="cpu")
    assert (result.num_continued, result.num_images) == (0, 80)
    assert "wrong.png" not in (tmp_path / "scored.csv").read_text()


def test_damaged_draft_is_started_over(model: str, data: Path, tmp_path: Path) -> None:
    """A record that is not JSON is no error."""
    leave_draft(tmp_path / ".scored.csv.draft", "0" * 64)
    (tmp_path / ".scored.csv.draft" / "progress.json").write_text("{")
    result = trialrun.score(model, str(data), str(tmp_path / "scored.csv"), device="cpu")
    assert result.num_images == 80


def test_two_processes_do_not_write_one_output(model: str, data: Path, tmp_path: Path) -> None:
    """The second one is refused with one line."""
    folder = tmp_path / ".scored.csv.draft"
    folder.mkdir()
    with (
        FileLock(folder / "lock"),
        pytest.raises(StorageError, match="another process is writing"),
    ):
        trialrun.score(model, str(data), str(tmp_path / "scored.csv"), device="cpu")
    assert folder.exists()
