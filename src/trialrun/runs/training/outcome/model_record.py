"""The record of the model of a training."""

from trialrun.runs.training.inputs.data import PreparedData
from trialrun.runs.training.logging import collect_linked_metrics
from trialrun.runs.training.outcome.model_upload import ModelRecord
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.resumption.progress import BestEpoch
from trialrun.runs.training.smoke_plan import make_smoke_tags
from trialrun.scoring.parity import Parity
from trialrun.tracking import truncate_digest

# What a person chooses a version by; all metrics are linked to the model.
_TAGGED_METRICS = ("valid_accuracy", "valid_top5_accuracy", "valid_loss")


def make_model_record(
    plan: TrainPlan,
    data: PreparedData,
    best: BestEpoch,
    result: TrainResult,
    parity: Parity,
    card: str,
) -> ModelRecord:
    """Return the record of the best epoch's model.

    It is not registered without parity, nor in a smoke test.
    """
    is_registered = parity.is_equal and not plan.config.smoke
    return ModelRecord(
        params=plan.config.public_params(),
        tags=_make_tags(data, result) | parity.make_tags() | make_smoke_tags(plan.config),
        step=result.best_epoch,
        timestamp_ms=best.timestamp_ms,
        metrics=collect_linked_metrics(best.status, data),
        register_as=plan.config.register_as if is_registered else None,
        card=card,
        pytorch_flavor=plan.config.pytorch_flavor,
    )


def _make_tags(data: PreparedData, result: TrainResult) -> dict[str, str]:
    metrics = result.metrics
    chosen = {name: f"{metrics[name]:.6g}" for name in _TAGGED_METRICS if name in metrics}
    return chosen | {
        "weights_sha256": str(result.weights_sha256),
        "train_digest": truncate_digest(data.train.scan),
        "valid_digest": truncate_digest(data.valid.scan),
        "best_epoch": str(result.best_epoch),
        "stop_reason": result.stop_reason,
    }
