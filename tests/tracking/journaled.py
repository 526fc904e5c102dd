"""Runs with a journal on a real store that a test can make unreachable."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow.entities import Run

from trialrun.checkpoint.run_folder import RunFolder, create_run_folder
from trialrun.tracking import JournalOptions, TrackedRun, open_run


class AwayClient(mlflow.MlflowClient):
    """A client whose store does not answer while `is_away`, and refuses the methods in `refused`.

    `calls` counts the calls of each method that were tried.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.is_away = False
        self.refused: set[str] = set()
        self.calls: dict[str, int] = {}

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name.startswith("_") or not callable(attribute):
            return attribute

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            if self.is_away:
                raise requests.ConnectionError("Connection refused")
            if name in self.refused:
                raise mlflow.MlflowException(f"{name} is refused", error_code=1000)
            return attribute(*arguments, **options)

        return call


def make_options(folder: Path, **values: Any) -> JournalOptions:
    """Return options of a journal in a new run folder."""
    return JournalOptions(folder=create_run_folder(folder, {}), **values)


@contextmanager
def open_journaled(
    client: mlflow.MlflowClient | None, options: JournalOptions, run_id: str | None = None
) -> Iterator[TrackedRun]:
    """Open a run of the experiment `tests` with a journal."""
    tags = {"own": "tag"}
    with open_run(
        client, experiment=None, name="journaled", tags=tags, run_id=run_id, journal=options
    ) as run:
        yield run


def read_runs(store: str) -> list[Run]:
    """Return the runs of the experiment `tests`."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    found: list[Run] = client.search_runs([experiment.experiment_id])
    return found


def is_empty(folder: RunFolder) -> bool:
    """Whether the journal of a folder was deleted."""
    return not folder.journal.exists()
