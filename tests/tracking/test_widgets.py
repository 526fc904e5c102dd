"""Images and tables for MLflow's widgets: the same files and tags as MLflow's own functions."""

import io
import re
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trialrun.tracking import TrackedRun, list_tables, log_image, log_table

# raised by pandas 3 in MLflow's log_table
pytestmark = pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes")

ROWS = [
    {"name": "a/ü", "images": 3, "recall": 1 / 3},
    {"name": '"b",\n', "images": 0, "recall": 0.0},
]
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def make_picture(size: tuple[int, int]) -> Image.Image:
    """Return a picture of noise."""
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(noise.astype(np.uint8))


def create_run(client: mlflow.MlflowClient) -> str:
    """Create a run; return its id."""
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return str(client.create_run(experiment.experiment_id).info.run_id)


def read_files(client: mlflow.MlflowClient, run_id: str, folder: str | None) -> dict[str, bytes]:
    """Return the content of each artifact in a folder by its path."""
    paths = [item.path for item in client.list_artifacts(run_id, folder) if not item.is_dir]
    return {path: Path(client.download_artifacts(run_id, path)).read_bytes() for path in paths}


def decode(content: bytes) -> list[int]:
    """Return the pixels of an image file."""
    values: list[int] = np.asarray(Image.open(io.BytesIO(content))).tolist()
    return values


@pytest.mark.parametrize("size", [(300, 200), (100, 400), (64, 64)])
def test_image_equals_that_of_mlflow(store: str, size: tuple[int, int]) -> None:
    """Names but for their ids, pixels, thumbnails and the tag are those of `log_image`."""
    client, picture = mlflow.MlflowClient(store), make_picture(size)
    theirs, ours = create_run(client), create_run(client)
    client.log_image(theirs, picture, key="worst_mistakes", step=3, timestamp=17)
    run = TrackedRun(client, ours)
    log_image(run, picture, key="worst_mistakes", step=3, timestamp_ms=17)
    files = [
        {ID.sub("ID", path): decode(content) for path, content in read.items()}
        for read in (read_files(client, theirs, "images"), read_files(client, ours, "images"))
    ]
    assert len(files[0]) == 2
    assert files[0] == files[1]
    tags = [client.get_run(run_id).data.tags["mlflow.loggedImages"] for run_id in (theirs, ours)]
    assert tags[0] == tags[1]


def test_step_that_is_repeated_has_one_image(store: str) -> None:
    """A resumed run that logs a step again writes the same files."""
    client = mlflow.MlflowClient(store)
    run = TrackedRun(client, create_run(client))
    for _ in range(2):
        log_image(run, make_picture((20, 20)), key="samples", step=1, timestamp_ms=17)
    assert len(read_files(client, run.run_id, "images")) == 2


@pytest.mark.parametrize("name", ["per_class.json", "folder/per_class.json"])
def test_table_equals_that_of_mlflow(store: str, name: str) -> None:
    """File and tag are those of `log_table`, and MLflow reads the table."""
    client = mlflow.MlflowClient(store)
    theirs, ours = create_run(client), create_run(client)
    client.log_table(theirs, pd.DataFrame(ROWS), name)
    log_table(TrackedRun(client, ours), name, ROWS)
    folder = "folder" if "/" in name else None
    assert read_files(client, ours, folder) == read_files(client, theirs, folder)
    tags = [client.get_run(run_id).data.tags["mlflow.loggedArtifacts"] for run_id in (theirs, ours)]
    assert tags[0] == tags[1]
    experiment = client.get_run(ours).info.experiment_id
    table = client.load_table(experiment, name, run_ids=[ours])
    assert table["name"].tolist() == [row["name"] for row in ROWS]


def test_tables_of_others_are_kept(store: str) -> None:
    """A run that has a table of MLflow's keeps it, and no table is listed twice."""
    client = mlflow.MlflowClient(store)
    run = TrackedRun(client, create_run(client))
    client.log_table(run.run_id, pd.DataFrame(ROWS), "theirs.json")
    for _ in range(2):
        log_table(run, "ours.json", ROWS, others=list_tables(client, run.run_id))
    names = [table["path"] for table in list_tables(client, run.run_id)]
    assert names == ["theirs.json", "ours.json"]
