"""The result of a training run, as the library returns it and `--json` prints it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """The outcome of a run; the fields of the model are None if none was logged or registered."""

    run_id: str
    status: str
    stop_reason: str
    stopped_epoch: int
    best_epoch: int
    best_valid_loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the best epoch
    weights_sha256: str | None = None
    model_uri: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    smoke_test: Mapping[str, Any] | None = None  # what a passed smoke test tried

    def to_json(self) -> dict[str, Any]:
        """Return plain values by the names of the fields; `smoke_test` only of a smoke test."""
        values = asdict(self)
        if self.smoke_test is None:
            del values["smoke_test"]
        return values
