"""Trainings that are killed at seeded random moments and resumed leave what unbroken ones leave."""

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from mlflow.entities import Run

from tests.processes import run_program
from tests.system.kills import WHOLE
from trialrun.files import hash_file

pytestmark = pytest.mark.slow

SEED, NUM_KILLS = 20, 20
# Metrics and artifacts that measure time or say when something happened.
TIMES = ("seconds", "per_second", "data_wait_fraction", "num_checkpoints")
# Two of them have times, the others name the run.
TIMED_FILES = ("events.jsonl", "accuracy_over_time.png", "MLmodel", "MODEL_CARD.md")
TIMED_TAGS = (
    "mlflow.note.content",
    "trialrun.heartbeat",
    "trialrun.run_folder",
    "trialrun.folder",
    "decoded_images",  # by the process that started the run: a repeated one finds them in the cache
)

_TIMESTAMP = re.compile(r"(?<=timestamp\+)\d+")  # in the names of images of the image grid

_DRAFT = re.compile(r"^\.(.+)\.[0-9a-f]{12}$")  # of a file that a kill kept from its name

EMPTY_FOLDER = {"settings.json", "run.lock", "journal", "records.jsonl"}


@dataclass(frozen=True)
class Record:
    """What the store of one training holds."""

    run: Run
    histories: dict[str, list[tuple[int, float]]]  # steps and values by metric
    model_statuses: list[str]
    versions: list[dict[str, Any]]
    files: dict[str, str]  # checksums by path of the artifacts of run and model


def is_time(name: str) -> bool:
    """Whether a metric measures time."""
    return name.startswith("system/") or any(word in name for word in TIMES)


def read_record(folder: Path) -> Record:
    """Read what the store in `folder` holds; there is one run."""
    store = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(store, store)
    [run] = client.search_runs(["0"])
    histories = {
        name: sorted(
            (item.step, item.value) for item in client.get_metric_history(run.info.run_id, name)
        )
        for name in run.data.metrics
    }
    models = client.search_logged_models(["0"])
    versions = [
        {**version.tags, "number": version.version, "run": version.run_id == run.info.run_id}
        for version in client.search_model_versions()
    ]
    ids = {run.info.run_id: "run", **{model.model_id: "model" for model in models}}
    artifacts = folder / "artifacts"
    paths = (path for path in artifacts.rglob("*") if path.is_file())
    files = {}
    for path in paths:
        parts = [ids.get(part, part) for part in path.relative_to(artifacts).parts]
        files[_TIMESTAMP.sub("", "/".join(parts))] = hash_file(path)
    return Record(run, histories, [str(model.status) for model in models], versions, files)


def drop_times(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values whose names are not those of times."""
    return {name: value for name, value in values.items() if not is_time(name)}


def check_equal(found: Record, whole: Record) -> None:
    """Check that a killed training has left what the unbroken one has."""
    assert found.run.info.status == "FINISHED"
    assert found.run.data.tags["weights_sha256"] == whole.run.data.tags["weights_sha256"]
    assert found.run.data.params == whole.run.data.params
    tags = [
        {name: text for name, text in record.run.data.tags.items() if name not in TIMED_TAGS}
        for record in (found, whole)
    ]
    assert tags[0] == tags[1]
    assert drop_times(found.histories) == drop_times(whole.histories)
    own = {name: rows for name, rows in found.histories.items() if not name.startswith("system/")}
    for name, rows in own.items():
        assert [step for step, _ in rows] == [step for step, _ in whole.histories[name]], name
    assert found.model_statuses == ["READY"]
    assert [drop_times(version) for version in found.versions] == [
        drop_times(version) for version in whole.versions
    ]
    assert found.files.keys() == whole.files.keys()
    for name, checksum in found.files.items():
        assert name.endswith(TIMED_FILES) or checksum == whole.files[name], name


def list_run_folders(folder: Path) -> list[Path]:
    """Return the run folders beside the store in `folder`."""
    return list((folder / "trialrun-runs").iterdir())


def test_killed_trainings_equal_an_unbroken_one(
    initialised_store: Path, colors: Path, tmp_path: Path
) -> None:
    """The same weights, one run, each metric once per step, one version, nothing left behind.

    A kill before the run exists leaves a run folder with the settings and without records.
    """
    folder = tmp_path / "kills"
    folder.mkdir()
    shutil.copy(initialised_store, folder / "template.db")
    program = [sys.executable, "-m", "tests.system.kills", str(folder), str(colors)]
    done = run_program([*program, str(SEED), str(NUM_KILLS)], cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    trainings = json.loads(done.stdout.splitlines()[-1])
    whole = read_record(folder / WHOLE)
    assert list_run_folders(folder / WHOLE) == []
    for training in trainings:
        own = Path(training["folder"])
        try:
            assert training["outcomes"][-1].startswith("0 "), training["outcomes"]
            check_equal(read_record(own), whole)
            left = list_run_folders(own)
            assert len(left) < training["num_started"]
            for path in left:
                names = {_DRAFT.sub(r"\1", file.name) for file in path.rglob("*")}
                assert names <= EMPTY_FOLDER
        except AssertionError as error:
            error.add_note("\n".join([*training["outcomes"], (own / "log").read_text()]))
            raise
    commands = [str(process.info["cmdline"]) for process in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if str(folder) in command] == []
