"""What a search came to, as the command line prints it and a caller gets it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The end of a search; what is said of training is said of the best trial.

    `run_id` is the parent's, `best_run_id` the best trial's. `search_stop_reason` is `completed`,
    `time_budget`, or `exhausted` where a grid had no more points that fit in memory.
    """

    run_id: str
    status: str
    study: str
    storage: str
    search_stop_reason: str
    num_trials: Mapping[str, int]  # by state: complete, pruned, failed
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
    pareto_trials: tuple[int, ...] = ()  # with several metrics: those that nothing beats in all
    noise_floor: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of the fields."""
        return asdict(self)
