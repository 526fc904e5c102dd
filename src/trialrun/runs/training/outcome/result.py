"""The result of a training run, as the library returns it and `--json` prints it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trialrun.report.html_tables import render_fields


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

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        fields = {
            "stop_reason": self.stop_reason,
            "best epoch": f"{self.best_epoch} of {self.stopped_epoch}",
            "best_valid_loss": self.best_valid_loss,
            "valid_accuracy": self.metrics.get("valid_accuracy"),
            "valid_top5_accuracy": self.metrics.get("valid_top5_accuracy"),
            "model": name_model(self.model_name, self.model_version) or self.model_uri,
            "run_id": self.run_id,
        }
        title = "Smoke test" if self.smoke_test is not None else "Training"
        return render_fields(f"{title} {self.status}", fields)


def name_model(name: str | None, version: str | None) -> str | None:
    """Return the address of a registered version; None if none was registered."""
    return None if name is None or version is None else f"models:/{name}/{version}"
