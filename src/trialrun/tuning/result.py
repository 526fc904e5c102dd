"""The result of a search, as returned to callers and printed by the command line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


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
