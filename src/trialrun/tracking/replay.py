"""Writes records to the MLflow run: each kind by its own call, neighbours of one kind together."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from trialrun.checkpoint.run_folder import RunFolder
from trialrun.errors import StorageError
from trialrun.mlflow_client import (
    delete_unfinished_uploads,
    describe_experiment,
    find_experiment_id,
    is_outage,
    retry_conflicts,
    translate_tracking_errors,
)
from trialrun.tracking.journal import Journal
from trialrun.tracking.records import (
    ARTIFACT,
    BUILT_IN,
    CREATE,
    END,
    EXPERIMENT,
    INPUTS,
    MAX_METRICS,
    MAX_PARAMS,
    MAX_TAGS,
    METRICS,
    PARAMS,
    REOPEN,
    TAGS,
    Record,
    build_inputs,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

ERROR_TAG = "error"  # why a run failed or was interrupted
OFFLINE_TAG = "trialrun.offline_id"  # of a run that was created after its training
_BATCHED = {
    PARAMS: ("params", MAX_PARAMS),
    METRICS: ("metrics", MAX_METRICS),
    TAGS: ("tags", MAX_TAGS),
}
_MAX_BATCH = 1000  # entities of all kinds that MLflow takes in one call
_FAILURES = {
    CREATE: "the run cannot be opened",
    REOPEN: "the run cannot be opened again",
    EXPERIMENT: "the experiment cannot be described",
    PARAMS: "parameters cannot be logged",
    METRICS: "metrics cannot be logged",
    TAGS: "tags cannot be set",
    INPUTS: "datasets cannot be logged",
    END: "the run cannot be ended",
}


class RunTarget:
    """The MLflow run that records are written to."""

    def __init__(
        self, client: "MlflowClient", run_id: str, experiment_id: str | None = None
    ) -> None:
        self.client = client
        self.run_id = run_id
        self._experiment_id = experiment_id

    @property
    def experiment_id(self) -> str:
        """The id of the run's experiment.

        Raises:
            MlflowException: The run cannot be read.
        """
        if self._experiment_id is None:
            self._experiment_id = str(self.client.get_run(self.run_id).info.experiment_id)
        return self._experiment_id

    def set_run(self, run_id: str, experiment_id: str) -> None:
        """Set the run, which has just been created."""
        self.run_id, self._experiment_id = run_id, experiment_id


# Writes a record of another kind: gets its values and its files; returns plain values. It may be
# called again for the same record, and must then complete what the first call has started.
RecordHandler = Callable[[RunTarget, Mapping[str, Any], Path], Mapping[str, Any]]


def write_record(target: RunTarget, record: Record) -> None:
    """Write a record that needs neither files nor a handler.

    Raises:
        TrackingError: The store fails or refuses the record.
        StorageError: The disk of the store is full.
    """
    with translate_tracking_errors(_FAILURES[record.kind]):
        if record.kind in _BATCHED:
            _write_batch(target, [record])
        elif record.kind == INPUTS:
            datasets = build_inputs(record)
            retry_conflicts(lambda: target.client.log_inputs(target.run_id, datasets))
        elif record.kind == EXPERIMENT:
            describe_experiment(target.client, target.experiment_id)
        elif record.kind == REOPEN:
            _reopen_run(target)
        elif record.kind == END:
            delete_unfinished_uploads(target.client, target.run_id)
            end_time = record.values["end_time"]
            target.client.set_terminated(target.run_id, record.values["status"], end_time)


def _reopen_run(target: RunTarget) -> None:
    """Set a run to RUNNING, and delete the tag that says why it was interrupted."""
    target.client.update_run(target.run_id, status="RUNNING")
    if ERROR_TAG in target.client.get_run(target.run_id).data.tags:
        target.client.delete_tag(target.run_id, ERROR_TAG)


def _write_batch(target: RunTarget, records: Sequence[Record]) -> None:
    """Write parameters, metrics and tags in one call; the last of several equal tags counts."""
    from mlflow.entities import Metric, RunTag

    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: list[Metric] = []
    for record in records:
        values = dict(record.values)
        if record.kind == PARAMS:
            params |= values["params"]
        elif record.kind == TAGS:
            tags |= values["tags"]
        else:
            named, step = values.pop("metrics"), values.pop("step")
            timestamp_ms = values.pop("timestamp_ms")
            metrics += [
                Metric(name, value, timestamp_ms, step, **values) for name, value in named.items()
            ]
    tag_list = [RunTag(name, text) for name, text in tags.items()]
    _log_params(target, params)
    if metrics or tag_list:
        target.client.log_batch(target.run_id, metrics=metrics, tags=tag_list)


def _log_params(target: RunTarget, params: Mapping[str, str]) -> None:
    """Log parameters, except those that the run already has, such as those of `mlflow run`."""
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    if not params:
        return
    try:
        target.client.log_batch(target.run_id, params=[Param(*item) for item in params.items()])
    except MlflowException as error:
        if "Changing param values is not allowed" not in str(error):
            raise
        existing = target.client.get_run(target.run_id).data.params
        new = [Param(*item) for item in params.items() if item[0] not in existing]
        target.client.log_batch(target.run_id, params=new)


class Replayer:
    """Sends the records of a journal to their run, in order.

    A record that the store refuses is kept, and those after it are sent all the same. `last_kind`
    is the kind of the last record that was sent.
    """

    def __init__(
        self,
        journal: Journal,
        target: RunTarget,
        handlers: Mapping[str, RecordHandler],
        folder: RunFolder,
    ) -> None:
        self.journal = journal
        self.target = target
        self.refusals: list[Exception] = []
        self.last_kind = ""
        self._handlers = handlers
        self._folder = folder

    def send_next(self) -> int:
        """Send the next records in one call; return their number, 0 if nothing is pending.

        Raises:
            TrialrunError: The store does not answer, or refuses to create the run.
        """
        batch = _select_batch(self.journal.list_pending())
        if not batch:
            return 0
        self.journal.flush()
        try:
            self._send(batch)
        except Exception as error:
            if is_outage(error):
                raise
            if batch[0][1].kind == CREATE:  # the others cannot be sent without it
                raise
            if len(batch) > 1:
                return self._send_singly(batch)
            self._refuse(batch[0][0], error)
        self.last_kind = batch[-1][1].kind
        return len(batch)

    def _send_singly(self, batch: list[tuple[int, Record]]) -> int:
        """Send records one by one, to find the one that the store refuses."""
        for item in batch:
            try:
                self._send([item])
            except Exception as error:
                if is_outage(error):
                    raise
                self._refuse(item[0], error)
        return len(batch)

    def _refuse(self, number: int, error: Exception) -> None:
        self.refusals.append(error)
        self.journal.refuse(number)

    def _send(self, batch: list[tuple[int, Record]]) -> None:
        numbers = [number for number, _ in batch]
        record = batch[0][1]
        if record.kind in _BATCHED:
            with translate_tracking_errors(_FAILURES[record.kind]):
                _write_batch(self.target, [item for _, item in batch])
        elif record.kind == CREATE:
            self._create_run(record)
        elif record.kind == ARTIFACT:
            self._send_artifact(record)
        elif record.kind in BUILT_IN:
            write_record(self.target, record)
        else:
            result = self._send_custom(record)
            self.journal.acknowledge(numbers, {record.kind: dict(result)})
            return
        self.journal.acknowledge(numbers)

    def _create_run(self, record: Record) -> None:
        with translate_tracking_errors(_FAILURES[CREATE]):
            run_id, experiment_id = _find_or_create_run(self.target.client, record.values)
        self.target.set_run(run_id, experiment_id)
        self._folder.write_owner(run_id=run_id, experiment_id=experiment_id)

    def _send_artifact(self, record: Record) -> None:
        path = self.journal.find_file(record.values["file"])
        if not path.is_file() or hash_payload(path) != record.values["xxh3"]:
            raise StorageError(
                f"{path.name} cannot be stored: its copy in {path.parent} is damaged",
                "Restore the file, or start the run again.",
            )
        with translate_tracking_errors(f"{path.name} cannot be stored"):
            self.target.client.log_artifact(
                self.target.run_id, str(path), record.values["folder"] or None
            )

    def _send_custom(self, record: Record) -> Mapping[str, Any]:
        handler = self._handlers.get(record.kind)
        if handler is None:
            raise StorageError(
                f"a record of the kind {record.kind} cannot be sent",
                "Use the version of trialrun that wrote it.",
            )
        values = {name: value for name, value in record.values.items() if name != "file"}
        return handler(self.target, values, self.journal.find_file(record.values["file"]))


def hash_payload(path: Path) -> str:
    """Return the checksum of a file that waits in the journal."""
    return xxhash.xxh3_64_hexdigest(path.read_bytes())


def _select_batch(pending: list[tuple[int, Record]]) -> list[tuple[int, Record]]:
    """Return the first records that fit in one call of MLflow; one, if it cannot be batched."""
    sizes = dict.fromkeys(_BATCHED, 0)
    for index, (_, record) in enumerate(pending):
        if record.kind not in _BATCHED:
            return pending[: max(index, 1)]
        key, limit = _BATCHED[record.kind]
        sizes[record.kind] += len(record.values[key])
        if index and (sizes[record.kind] > limit or sum(sizes.values()) > _MAX_BATCH):
            return pending[:index]
    return pending


def _find_or_create_run(client: "MlflowClient", values: Mapping[str, Any]) -> tuple[str, str]:
    """Return run and experiment of an offline run, which an earlier attempt may have created."""
    from mlflow.entities import ViewType

    experiment_id = values["experiment_id"] or find_experiment_id(client, values["experiment"])
    offline_id = values["tags"][OFFLINE_TAG]
    found = client.search_runs(
        [experiment_id], f"tags.`{OFFLINE_TAG}` = '{offline_id}'", ViewType.ALL, max_results=1
    )
    if found:
        return str(found[0].info.run_id), experiment_id
    run = client.create_run(
        experiment_id, values["start_time"], dict(values["tags"]), values["name"]
    )
    return str(run.info.run_id), experiment_id


def send_all(replayer: Replayer) -> int:
    """Send everything that is pending; return the number of records that were sent.

    Raises:
        TrialrunError: The store does not answer.
    """
    num_sent = 0
    while num := replayer.send_next():
        num_sent += num
    return num_sent - len(replayer.refusals)


def now_ms() -> int:
    """Return the present time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
