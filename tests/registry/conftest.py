"""What tests of the registry share: a store with a registered model of six versions."""

from pathlib import Path
from typing import Any

import pytest

from trialrun.registry import alias as aliases
from trialrun.registry.history import PROMOTION, AliasEntry, format_now

NUM_PROCESSES = 6


def entry(version: str, replaced: str | None = None, kind: str = PROMOTION) -> AliasEntry:
    """Return an entry that moves the alias to `version`."""
    return AliasEntry(
        number=0,
        kind=kind,
        version=version,
        replaced=replaced,
        at=format_now(),
        user="someone",
        reason="test",
        figures={"accuracy": 0.9},
    )


@pytest.fixture
def client(store: str, tmp_path: Path) -> Any:
    """Return a client of a store with a registered model `m` of six versions."""
    import mlflow

    client = mlflow.MlflowClient(store)
    register(client, tmp_path)
    return client


def register(client: Any, folder: Path) -> None:
    """Create the registered model and its versions."""
    client.create_registered_model("m")
    for _ in range(NUM_PROCESSES):
        client.create_model_version("m", source=str(folder))


def promote(client: Any, version: str) -> AliasEntry:
    """Move the alias to `version`."""
    judged = aliases.read_alias_history(client, "m", "champion")
    return aliases.move_alias(client, judged, entry(version, judged.holder))


def holder(client: Any, alias: str = "champion") -> str | None:
    """Return the version that a plain MLflow client finds under the alias."""
    version = client.get_registered_model("m").aliases.get(alias)
    return None if version is None else str(version)
