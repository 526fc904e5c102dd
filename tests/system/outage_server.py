"""An MLflow server that tests stop, suspend and start again, and the comparison of its runs."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow

from tests.processes import ForkedProgram
from tests.servers import find_free_port, wait_until_healthy

# Tags and metrics that differ between two equal runs.
_OWN_TAGS = (
    "trialrun.heartbeat",
    "trialrun.run_folder",
    "trialrun.offline_id",
    "mlflow.runName",
    "decoded_images",
    "mlflow.user",
    "mlflow.modelVersions",  # its number
)
_TIMED = ("per_second", "seconds", "data_wait", "system/")


class Server:
    """A server with one SQLite file and one port, whatever happens to its process."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, find_free_port()
        self._process: ForkedProgram | None = None
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        folder = self._folder
        arguments = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
        arguments += ["--artifacts-destination", str(folder / "artifacts")]
        self._process = ForkedProgram(
            [sys.executable, "-m", "mlflow", "server", *arguments, "--port", str(self._port)],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=folder / "log",
            stderr=folder / "log",
        )
        wait_until_healthy(f"{self.uri}/health", self._process)

    def kill(self) -> None:
        """Kill the server with its workers."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(30)
            self._process = None

    @property
    def is_running(self) -> bool:
        """Whether the server was started and not killed since."""
        return self._process is not None

    def suspend(self) -> None:
        """Let the server accept connections, but answer nothing."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the server answer again."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has ended
                os.killpg(self._process.pid, number)


@contextmanager
def run_server(folder: Path) -> Iterator[Server]:
    """Run a server for the block."""
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def describe_run(run_id: str) -> dict[str, Any]:
    """Return everything that a run stored and that is the same in an equal run."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    tags = run.data.tags
    assert run.inputs is not None
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": {name: text.replace(run_id, "RUN") for name, text in _select_tags(tags).items()},
        "metrics": {
            name: _read_history(run_id, name)
            for name in sorted(run.data.metrics)
            if not name.startswith("system/")
        },
        "has_system_metrics": any(name.startswith("system/") for name in run.data.metrics),
        "inputs": [(item.dataset.name, item.dataset.digest) for item in run.inputs.dataset_inputs],
        "artifacts": sorted((item.path, _size(item)) for item in client.list_artifacts(run_id)),
        "models": _describe_models(run.info.experiment_id, run_id),
        "versions": [
            (version.name, _select_tags(version.tags))
            for version in client.search_model_versions(f"run_id = '{run_id}'")
        ],
        "outputs": len(run.outputs.model_outputs) if run.outputs else 0,
    }


def _read_history(run_id: str, name: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient().get_metric_history(run_id, name)
    return [(item.step, 0.0 if _is_timed(name) else item.value) for item in history]


def _is_timed(name: str) -> bool:
    return any(part in name for part in _TIMED)


def _select_tags(tags: dict[str, str]) -> dict[str, str]:
    return {
        name: text for name, text in tags.items() if name not in _OWN_TAGS and not _is_timed(name)
    }


def _size(item: Any) -> int:
    return 0 if item.path in ("events.jsonl", "config.yaml") else item.file_size  # times, names


def _describe_models(experiment_id: str, run_id: str) -> list[Any]:
    client = mlflow.MlflowClient()
    models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    return [
        (
            str(model.status),
            _select_tags(model.tags),
            sorted(
                (item.key, 0.0 if _is_timed(item.key) else item.value, item.step)
                for item in model.metrics or ()
            ),
            sorted(item.path for item in client.list_logged_model_artifacts(model.model_id)),
        )
        for model in models
    ]
