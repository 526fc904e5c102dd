"""The result of a search, as returned to callers and printed by the command line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trialrun.report.html_tables import render_fields
from trialrun.runs.training.outcome.result import name_model


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The outcome of a search; fields about training describe the best trial.

    `run_id` is the parent run's id, `best_run_id` the best trial's. `search_stop_reason` is
    `completed`, `time_budget`, or `exhausted` if a grid has no more points that fit in memory.
    """

    run_id: str
    status: str
    study: str
    storage: str
    search_stop_reason: str
    num_trials: Mapping[str, int]  # by outcome: complete, pruned, failed, …
    best_trial: int
    best_run_id: str
    best_params: Mapping[str, Any]
    stop_reason: str
    stopped_epoch: int
    best_epoch: int
    best_valid_loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights_sha256: str | None = None
    model_uri: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    pareto_trials: tuple[int, ...] = ()  # the Pareto front, with several metrics
    noise_floor: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name as JSON-compatible values."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        fields = {
            "trials": {state: count for state, count in self.num_trials.items() if count},
            "best trial": self.best_trial,
            "best_params": self.best_params,
            "best epoch": f"{self.best_epoch} of {self.stopped_epoch}",
            "best_valid_loss": self.best_valid_loss,
            "valid_accuracy": self.metrics.get("valid_accuracy"),
            "pareto trials": ", ".join(map(str, self.pareto_trials)) or None,
            "model": name_model(self.model_name, self.model_version) or self.model_uri,
            "best_run_id": self.best_run_id,
            "run_id": self.run_id,
        }
        return render_fields(f"Search {self.status} ({self.search_stop_reason})", fields)
