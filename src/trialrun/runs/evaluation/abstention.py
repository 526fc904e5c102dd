"""A version of a model that abstains below a threshold of confidence, derived from test images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trialrun.config.evaluate import EvaluateConfig
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError, PromotionRefusedError
from trialrun.images.scanning.scan import DatasetScan
from trialrun.models.abstention import Abstention
from trialrun.models.directory import StoredModel, read_model_directory
from trialrun.models.weights.serialization import serialize_state
from trialrun.models.zoo.names import DESCRIPTION_FILE
from trialrun.registry import format_run_address
from trialrun.registry.versions import ModelOrigin
from trialrun.report.abstention import AnswerRule, find_answer_rule
from trialrun.report.intervals import Groups
from trialrun.report.markdown import escape_markdown
from trialrun.report.model_card import ModelCard
from trialrun.runs.evaluation.candidates import Candidate
from trialrun.runs.evaluation.derived_versions import (
    DerivedVersion,
    check_overlaps,
    choose_name,
    record_used_images,
    register_derived,
)
from trialrun.runs.evaluation.overlaps import count_overlaps_with, read_images_of_origin
from trialrun.runs.evaluation.predictions import ImagePredictions
from trialrun.scoring.labels import UNKNOWN
from trialrun.tracking import TrackedRun, truncate_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True)
class AbstentionPlan:
    """What is needed to derive a threshold for `model`; checked before any image is scored.

    `name` is the registered model that gets the version.
    """

    model: str
    name: str
    stored: StoredModel
    origin: ModelOrigin


def plan_abstention(
    client: "MlflowClient",
    model: str,
    candidate: Candidate,
    origin: ModelOrigin,
    scan: DatasetScan,
    config: EvaluateConfig,
    note: Callable[[str], None],
) -> AbstentionPlan:
    """Check that a threshold can be derived for the model from these images.

    Raises:
        InvalidModelDirectoryError: Not a model directory of trialrun.
        InvalidParameterError: No registered model is named, or a class is named `unknown`.
        PromotionRefusedError: The images trained or selected the model, or that is not known.
    """
    if not (candidate.folder / DESCRIPTION_FILE).is_file():
        raise InvalidModelDirectoryError(
            f"{model} is not a model directory of trialrun, which alone keeps a threshold",
            "Register it first with `trialrun model register`, or leave abstain at none.",
        )
    stored = read_model_directory(candidate.folder)
    if UNKNOWN in stored.description.classes:
        raise InvalidParameterError(
            f"abstain: the model has a class {UNKNOWN}, which is the label of no answer",
            "Rename the class and train again.",
        )
    name = choose_name(client, model, config.register)
    overlaps = count_overlaps_with(scan, model, read_images_of_origin(client, origin))
    refusal = "no threshold is derived"
    for text in check_overlaps(overlaps, refusal=refusal, is_allowed=config.allow_overlap):
        note(text)
    return AbstentionPlan(model, name, stored, origin)


def derive_rule(
    images: ImagePredictions, groups: Groups | None, config: EvaluateConfig
) -> AnswerRule | None:
    """Return the rule that bounds the error of the answers at `config.abstain`; None if none does.

    Of images that are alike or of one group, one counts: the others are not independent of it.
    """
    predictions, max_error = images.predictions, config.abstain
    assert max_error is not None
    assert predictions.confidence is not None
    rows = _choose_independent(len(predictions), groups)
    return find_answer_rule(
        predictions.confidence[rows],
        predictions.right[rows],
        max_error=max_error,
        level=config.confidence,
    )


def refuse_abstention(
    images: ImagePredictions, groups: Groups | None, config: EvaluateConfig
) -> PromotionRefusedError:
    """Return the error that no threshold bounds the error of the answers."""
    num_images = len(_choose_independent(len(images.predictions), groups))
    return PromotionRefusedError(
        f"{num_images} independent images give no threshold that bounds the error of answers at "
        f"abstain={config.abstain:g} with a confidence of {config.confidence:.0%}",
        "Give more images, or allow a larger error with --abstain.",
    )


def _choose_independent(num_images: int, groups: Groups | None) -> NDArray[np.int64]:
    """Return the rows of one image of each group, drawn by a fixed seed, in order."""
    if groups is None:
        return np.arange(num_images)
    drawn = np.random.default_rng(0).permutation(num_images)
    _, first = np.unique(groups[drawn], return_index=True)
    return np.sort(drawn[first])


def register_abstaining(
    run: TrackedRun,
    plan: AbstentionPlan,
    rule: AnswerRule,
    images: ImagePredictions,
    scan: DatasetScan,
) -> DerivedVersion:
    """Register a version of the model that answers by `rule`.

    Raises:
        TrackingError: The store or the registry fails.
        StorageError: The disk of the artifact store is full or not writable.
    """
    stored = plan.stored
    assert stored.state is not None
    version = register_derived(
        run,
        replace(stored.description, abstention=_describe(rule, scan)),
        serialize_state(stored.state),
        stored.engine_files,
        name=plan.name,
        params={"model": plan.model},
        tags=_make_tags(rule, stored, plan.model),
        card=_make_card(rule, plan.model, scan, format_run_address(run.run_id)),
    )
    record_used_images(run, plan.origin, images.sha256)
    return version


def _describe(rule: AnswerRule, scan: DatasetScan) -> Abstention:
    return Abstention(
        threshold=rule.threshold,
        max_error=rule.max_error,
        level=rule.level,
        coverage=rule.coverage,
        num_images=rule.num_images,
        data_digest=truncate_digest(scan),
    )


def _make_tags(rule: AnswerRule, stored: StoredModel, model: str) -> dict[str, str]:
    return {
        "abstain_threshold": f"{rule.threshold:.9g}",
        "abstain_max_error": f"{rule.max_error:g}",
        "abstain_coverage": f"{rule.coverage:.4g}",
        "abstain_source": model,
        "weights_sha256": str(stored.weights_sha256),
    }


def _make_card(rule: AnswerRule, model: str, scan: DatasetScan, address: str) -> ModelCard:
    return ModelCard(
        title=f"{model} that abstains",
        summary=f"The model {escape_markdown(model)}, which answers `{UNKNOWN}` below a confidence "
        f"of {rule.threshold:.4g}: with a probability of {rule.level:.0%}, at most "
        f"**{100 * rule.max_error:g}%** of its answers are wrong. It answered "
        f"**{rule.coverage:.1%}** of {rule.num_images} test images.",
        address=address,
        facts=[
            ("source", f"{model}; see its description for data, results and settings"),
            ("test images", f"{scan.images.source}, digest {truncate_digest(scan)}"),
            ("answered", f"{rule.num_answered} of {rule.num_images}, {rule.num_wrong} wrong"),
        ],
        note="The promise is for images like the test images; it does not hold for others.",
    )
