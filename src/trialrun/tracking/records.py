"""Records of a run: what is to be written to its MLflow run, as plain values.

A record has a kind and values that JSON can hold. A record that is sent twice has the same effect
as one that is sent once: metrics carry their own timestamps.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

CREATE = "create"  # the run itself, which does not exist in the store yet
REOPEN = "reopen"
EXPERIMENT = "experiment"  # the tags of the run's experiment
PARAMS = "params"
METRICS = "metrics"
TAGS = "tags"
INPUTS = "inputs"
ARTIFACT = "artifact"
END = "end"
BUILT_IN = frozenset({CREATE, REOPEN, EXPERIMENT, PARAMS, METRICS, TAGS, INPUTS, ARTIFACT, END})

MAX_PARAMS, MAX_METRICS, MAX_TAGS = 100, 1000, 100  # MLflow's limits for one call
# MLflow's limits. Longer values are cut here: MLflow refuses them if MLFLOW_TRUNCATE_LONG_VALUES is
# false.
MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 8000


@dataclass(frozen=True, slots=True)
class Record:
    """One thing to write: its kind, and values that JSON can hold."""

    kind: str
    values: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"kind": self.kind, "values": dict(self.values)}

    @classmethod
    def from_json(cls, values: object) -> "Record":
        """Parse what `to_json` returned.

        Raises:
            ValueError: The values are not those of a record.
        """
        if not isinstance(values, dict) or not isinstance(values.get("kind"), str):
            raise ValueError("it has no kind")
        if not isinstance(values.get("values"), dict):
            raise ValueError("it has no values")
        return cls(values["kind"], values["values"])


def format_line(number: int, record: Record) -> bytes:
    """Return the line of a journal: number, checksum and JSON."""
    content = f"{number} {json.dumps(record.to_json(), separators=(',', ':'))}".encode()
    return xxhash.xxh3_64_hexdigest(content).encode() + b" " + content + b"\n"


def parse_line(line: bytes) -> tuple[int, Record]:
    """Parse a line of a journal, without its line break.

    Raises:
        ValueError: The line is damaged.
    """
    checksum, _, content = line.partition(b" ")
    if checksum != xxhash.xxh3_64_hexdigest(content).encode():
        raise ValueError("checksum mismatch")
    number, _, text = content.partition(b" ")
    return int(number), Record.from_json(json.loads(text))


def make_params(params: Mapping[str, str]) -> Iterator[Record]:
    """Yield records of parameters; values are cut to the length that MLflow stores."""
    cut = {name: text[:MAX_PARAM_LENGTH] for name, text in params.items()}
    for chunk in _split(cut, MAX_PARAMS):
        yield Record(PARAMS, {"params": chunk})


def make_metrics(
    metrics: Mapping[str, float], step: int, timestamp_ms: int, **links: Any
) -> Iterator[Record]:
    """Yield records of the metrics of one step.

    `links` are MLflow's `model_id`, `dataset_name` and `dataset_digest`.
    """
    values = {name: float(value) for name, value in metrics.items()}
    for chunk in _split(values, MAX_METRICS):
        yield Record(
            METRICS, {"metrics": chunk, "step": step, "timestamp_ms": timestamp_ms, **links}
        )


def make_tags(tags: Mapping[str, str]) -> Iterator[Record]:
    """Yield records of tags; values are cut to the length that MLflow stores."""
    cut = {name: cut_tag(text) for name, text in tags.items()}
    for chunk in _split(cut, MAX_TAGS):
        yield Record(TAGS, {"tags": chunk})


def make_inputs(datasets: "Sequence[DatasetInput]") -> Record:
    """Return the record of datasets that are the inputs of a run."""
    rows = [
        {
            "dataset": item.dataset.to_dictionary(),
            "tags": {tag.key: tag.value for tag in item.tags},
        }
        for item in datasets
    ]
    return Record(INPUTS, {"datasets": rows})


def build_inputs(record: Record) -> "list[DatasetInput]":
    """Return the datasets of a record of `make_inputs`."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(**row["dataset"]),
            [InputTag(key, text) for key, text in row["tags"].items()],
        )
        for row in record.values["datasets"]
    ]


def cut_tag(text: str) -> str:
    """Return the text of a tag, cut to the length that MLflow stores."""
    return text if len(text) <= _MAX_TAG_LENGTH else text[: _MAX_TAG_LENGTH - 1] + "…"


def _split(values: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    items = iter(values.items())
    while chunk := dict(islice(items, size)):
        yield chunk
