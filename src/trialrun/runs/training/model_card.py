"""The model card, shown as the description of the run in MLflow."""

from trialrun.engine.evaluation_check import EvaluationFault
from trialrun.report.markdown import escape_markdown
from trialrun.runs.training.data import PreparedData
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.result import TrainResult

_SHOWN_CLASSES = 20


def format_model_card(
    plan: TrainPlan,
    result: TrainResult,
    data: PreparedData,
    fault: EvaluationFault | None = None,
) -> str:
    """Return Markdown with the model, the data, the accuracy and the reason for stopping.

    `fault` is the evaluation fault of the best epoch, if it has one.
    """
    metrics = result.metrics
    shown = map(escape_markdown, plan.classes[:_SHOWN_CLASSES])
    num_hidden = max(len(plan.classes) - _SHOWN_CLASSES, 0)
    more = f" and {num_hidden} more" if num_hidden else ""
    skipped = len(data.train.skipped) + len(data.valid.skipped)
    lines = [
        f"## {escape_markdown(plan.config.model)} on {escape_markdown(plan.train.source)}",
        "",
        f"**{metrics['valid_accuracy']:.2%}** of {len(data.valid.dataset)} validation images are "
        f"classified correctly (loss {result.best_valid_loss:.4f}) with the weights of epoch "
        f"{result.best_epoch}.",
        *(["", f"**Warning: {fault}.**"] if fault else []),
        "",
        "| | |",
        "|---|---|",
        f"| stopped | {result.stop_reason} after epoch {result.stopped_epoch} |",
        f"| trained on | {len(data.train.dataset)} images, {skipped} skipped in both sets |",
        f"| images | {data.preprocessing.image_size} pixels square "
        f"({data.preprocessing.fit}), RGB |",
        f"| classes | {len(plan.classes)}: {', '.join(shown)}{more} |",
        f"| weights | sha256 `{result.weights_sha256}` |",
        "",
        "The validation set also chose the best epoch: expect a slightly lower accuracy on new "
        "images.",
    ]
    return "\n".join(lines)
