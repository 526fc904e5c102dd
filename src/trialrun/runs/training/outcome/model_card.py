"""The model card of a training: description of the run and of the version, and an artifact."""

from collections.abc import Iterator, Mapping, Sequence

from trialrun.config import TrainConfig
from trialrun.config.settings import as_texts
from trialrun.models.weights.initial import read_architecture
from trialrun.models.weights.published import describe_licence, has_default_weights
from trialrun.models.zoo.names import DEFAULT_WEIGHTS
from trialrun.report.headlines import compute_headlines
from trialrun.report.model_card import ModelCard, format_card
from trialrun.runs.training.initial import RANDOM, RESOLVED_WEIGHTS, resolve_model
from trialrun.runs.training.inputs.data import PreparedData, PreparedSet
from trialrun.runs.training.logging import collect_valid_predictions
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.resumption.progress import BestEpoch
from trialrun.tracking import truncate_digest

_SHOWN_CLASSES = 20
# Settings that the card shows elsewhere, or that do not change the model.
_HIDDEN_SETTINGS = frozenset(
    {
        "model",
        "train_data",
        "valid_data",
        "weights",
        "random_seed",
        "register_as",
        "experiment",
        "run_name",
        "offline",
        "flush_seconds",
        "checkpoint_dir",
        "checkpoint_minutes",
        "checkpoint_artifacts",
        "report",
        "audit",
        "pytorch_flavor",
    }
)


def format_model_card(
    plan: TrainPlan,
    result: TrainResult,
    data: PreparedData,
    best: BestEpoch,
    initial_params: Mapping[str, str],
    address: str,
) -> str:
    """Return Markdown with the model, the data, the results, the weak classes and the settings.

    `initial_params` are the parameters that identify the initial weights. `address` is empty for a
    model that is not kept.
    """
    validation, fault = best.status.result.validation, best.status.result.evaluation_fault
    predictions = collect_valid_predictions(best.status, plan, data.valid).predictions
    return format_card(
        ModelCard(
            title=f"{plan.config.model} on {plan.train.source}",
            summary=f"**{result.metrics['valid_accuracy']:.2%}** of {len(predictions)} validation "
            f"images are classified correctly (loss {result.best_valid_loss:.4f}) with the weights "
            f"of epoch {result.best_epoch}.",
            address=address,
            warnings=[] if fault is None else [str(fault)],
            results=compute_headlines(predictions, None, validation.top5_accuracy),
            predictions=predictions,
            note="The validation set also chose the best epoch: expect slightly lower values on "
            "new images.",
            facts=list(_list_facts(plan, result, data, initial_params)),
            settings=list(_list_settings(plan.config)),
        )
    )


def _list_facts(
    plan: TrainPlan,
    result: TrainResult,
    data: PreparedData,
    initial_params: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    yield "training set", _describe_set(data.train, plan.train.source)
    yield "validation set", _describe_set(data.valid, plan.valid.source)
    yield "classes", _list_classes(plan.classes)
    yield (
        "images",
        f"{data.preprocessing.image_size} pixels square ({data.preprocessing.fit}), RGB",
    )
    yield "stopped", f"{result.stop_reason} after epoch {result.stopped_epoch}"
    yield "random seed", str(plan.config.random_seed)
    yield "initial weights", _describe_initial(plan, initial_params.get(RESOLVED_WEIGHTS, RANDOM))
    yield "weights", f"sha256 {result.weights_sha256}"


def _describe_set(prepared: PreparedSet, source: str) -> str:
    skipped = f", {len(prepared.skipped)} skipped" if prepared.skipped else ""
    digest = truncate_digest(prepared.scan)
    return f"{len(prepared.dataset)} images of {source}{skipped}; digest {digest}"


def _list_classes(classes: Sequence[str]) -> str:
    num_hidden = len(classes) - _SHOWN_CLASSES
    more = f" and {num_hidden} more" if num_hidden > 0 else ""
    return f"{len(classes)}: {', '.join(classes[:_SHOWN_CLASSES])}{more}"


def _describe_initial(plan: TrainPlan, source: str) -> str:
    """Return where the initial weights are from, and their licence if it is known."""
    if source == RANDOM:
        return RANDOM
    architecture = read_architecture(resolve_model(plan))
    if source == DEFAULT_WEIGHTS and has_default_weights(architecture):
        return f"{architecture} of torchvision; licence: {describe_licence(architecture)}"
    return f"{source}; licence unknown"


def _list_settings(config: TrainConfig) -> Iterator[tuple[str, str]]:
    defaults = as_texts(TrainConfig(train_data=config.train_data))
    for name, text in config.params().items():
        if text != defaults[name] and name not in _HIDDEN_SETTINGS:
            yield name, text
