"""Promotion: evaluates a version in an MLflow run and moves the alias if all gates pass."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trialrun.config import build_config
from trialrun.config.promote import BETTER, PromoteConfig
from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import InvalidParameterError, PromotionRefusedError
from trialrun.files import format_json
from trialrun.images.scanning.scan import DatasetScan
from trialrun.mlflow_client import connect_client
from trialrun.registry.alias import find_user_name, move_alias, read_alias_history
from trialrun.registry.gates import Verdict, evaluate_gates
from trialrun.registry.history import PROMOTION, AliasEntry, AliasHistory, format_now
from trialrun.registry.judgements import (
    DRY_RUN,
    count_attempts,
    make_judgement,
    read_judgements,
    record_judgement,
    spend_alpha,
)
from trialrun.registry.versions import (
    ModelVersion,
    check_version,
    find_newest_existing,
    find_version,
    link_models,
)
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.evaluation.logging import log_dataset
from trialrun.runs.evaluation.predictions import ImagePredictions, open_labelled_data
from trialrun.runs.promotion.baseline import rank_holders
from trialrun.runs.promotion.evidence import Versions, evaluate_candidates, log_evidence
from trialrun.runs.promotion.result import (
    Promotion,
    collect_figures,
    default_reason,
    format_card,
)
from trialrun.tracking import TrackedRun, open_run, truncate_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient


@isolate_torch_state()
def promote_version(
    name: str,
    version: str,
    data: str,
    values: Mapping[str, Any],
    callback: RunCallback | None = None,
) -> Promotion:
    """Evaluate `version` of `name` on `data`, and move the alias to it if all gates pass.

    The result contains a refusal instead of raising it, so that the caller can show its evidence.

    Raises:
        TrialrunError: The version could not be evaluated.
    """
    config = build_config(PromoteConfig, values)
    device = find_device(config.device)
    check_version(version)
    callback = callback or NoOpCallback()
    client = connect_client()
    history = read_alias_history(client, name, config.alias)
    versions = _find_versions(client, config, history, version)
    notes = _describe_past(history, versions.challenger)
    for note in notes:
        callback.on_note(note)
    scan = open_labelled_data(
        data,
        group_column=config.group_column,
        group_pattern=config.group_pattern,
        config=config,
        note=callback.on_note,
    )
    tags = {"trialrun.kind": "promotion", "trialrun.registered_model": name}
    with open_run(client, experiment=config.experiment, name=config.run_name, tags=tags) as run:
        callback.on_run_start(run.name, run.run_id)
        arguments = {"name": name, "version": versions.challenger.number, "data": data}
        run.log_params(config.params() | {"resolved_device": str(device)} | arguments)
        result = _evaluate_candidate(run, config, scan, versions)
        for note in result.notes:
            callback.on_note(note)
        result = replace(result, notes=(*notes, *result.notes))
        if result.promoted:
            result = _move_alias(client, config, history, result)
        _log_decision(run, result)
    return result


def _find_versions(
    client: "MlflowClient", config: PromoteConfig, history: AliasHistory, version: str
) -> Versions:
    """Find the challenger and the versions that it is compared with.

    Raises:
        PromotionRefusedError: The challenger is the champion already.
        InvalidParameterError: The baseline is the challenger itself.
    """
    challenger = find_version(client, history.name, version)
    if challenger.number == history.holder:
        raise PromotionRefusedError(
            f"{challenger} is the {history.alias} already", "`trialrun history` shows since when."
        )
    champion = history.last_holder and find_version(client, history.name, history.last_holder)
    baseline = _find_baseline(client, config, history, challenger)
    if baseline == challenger:
        raise InvalidParameterError(
            f"baseline={config.baseline} is the version to promote", "Name another version."
        )
    return Versions(
        challenger=challenger,
        champion=champion or None,
        baseline=None if baseline == champion else baseline,
    )


def _describe_past(history: AliasHistory, challenger: ModelVersion) -> tuple[str, ...]:
    """Return what the user should know of the versions: earlier moves by hand and rollbacks."""
    notes = [history.last_holder_note] if history.last_holder_note else []
    if rolled_back := history.previously_rolled_back(challenger.number):
        notes.append(
            f"{challenger} was rolled back at {rolled_back.at or 'an unknown time'}: "
            f"{rolled_back.reason}"
        )
    return tuple(notes)


def _find_baseline(
    client: "MlflowClient",
    config: PromoteConfig,
    history: AliasHistory,
    challenger: ModelVersion,
) -> ModelVersion | None:
    """Return the pinned baseline, else the best champion so far if small losses could add up.

    A version that a rollback removed is not a baseline: it had a fault that metrics did not show.
    """
    if config.baseline is not None:
        check_version(config.baseline, setting="baseline")
        return find_version(client, history.name, config.baseline)
    if config.require == BETTER:
        return None
    eligible = {*history.active_stack()} - {challenger.number}
    ranked = rank_holders(history.all_entries, config.metric)
    best = find_newest_existing(client, history.name, filter(eligible.__contains__, ranked))
    return find_version(client, history.name, best) if best else None


def _evaluate_candidate(
    run: TrackedRun, config: PromoteConfig, scan: DatasetScan, versions: Versions
) -> Promotion:
    model_ids = [version.origin.model_id for version in versions.list_all()]
    link_models(run.client, run.run_id, model_ids)
    log_dataset(run, scan)

    def count_attempt(images: ImagePredictions) -> tuple[int, float]:
        attempt = _record_attempt(run, config, versions, images)
        return attempt, spend_alpha(config.confidence, attempt)

    evaluation = evaluate_candidates(run.client, config, scan, versions, count_attempt)
    log_evidence(run, scan, evaluation)
    evidence = evaluation.evidence
    verdict = evaluate_gates(config, evidence)
    challenger = versions.challenger
    return Promotion(
        name=challenger.name,
        version=challenger.number,
        alias=config.alias,
        champion=versions.champion.number if versions.champion else None,
        run_id=run.run_id,
        data=scan.images.source,
        data_digest=truncate_digest(scan),
        num_images=len(evaluation.challenger.images.predictions),
        attempt=evidence.attempt,
        verdict=verdict,
        metrics=evidence.metrics,
        champion_metrics=evaluation.champion_metrics(),
        comparison=evidence.comparison,
        baseline=versions.baseline.number if versions.baseline else None,
        baseline_comparison=evidence.baseline,
        is_dry_run=config.dry_run,
        notes=evaluation.notes,
        refusal=None if verdict.passed else _make_refusal(challenger, config, verdict),
    )


def _record_attempt(
    run: TrackedRun, config: PromoteConfig, versions: Versions, images: ImagePredictions
) -> int:
    """Keep this use of the test images with the model; return how many attempts they judged.

    It is recorded before the others are counted, so that concurrent attempts count each other.
    """
    judgement = make_judgement(
        DRY_RUN if config.dry_run else PROMOTION,
        versions.challenger.number,
        versions.champion.number if versions.champion else None,
        run.run_id,
        images.sha256,
    )
    name = versions.challenger.name
    record_judgement(run.client, name, judgement)
    return count_attempts(read_judgements(run.client, name), judgement)


def _make_refusal(
    challenger: ModelVersion, config: PromoteConfig, verdict: Verdict
) -> PromotionRefusedError:
    reasons = "; ".join(
        f"{gate.name}: required {gate.asked}, found {gate.found}" for gate in verdict.failed
    )
    needed = verdict.images_needed
    return PromotionRefusedError(
        f"{challenger} does not become {config.alias}: {reasons}",
        "The alias has not moved. "
        + (f"About {needed} images with the same shares would suffice. " if needed else "")
        + "Train a better version, or relax the gates.",
    )


def _move_alias(
    client: "MlflowClient", config: PromoteConfig, history: AliasHistory, result: Promotion
) -> Promotion:
    """Move the alias; return the result with a refusal if another process moved it first."""
    entry = AliasEntry(
        number=0,
        kind=PROMOTION,
        version=result.version,
        replaced=result.champion,
        at=format_now(),
        user=find_user_name(),
        reason=config.reason or default_reason(result),
        run_id=result.run_id,
        data=result.data,
        data_digest=result.data_digest,
        figures=collect_figures(result),
    )
    try:
        move_alias(client, history, entry)
    except PromotionRefusedError as refusal:
        return replace(result, refusal=refusal)
    return result


def _log_decision(run: TrackedRun, result: Promotion) -> None:
    run.log_text("promotion.json", format_json(result.to_json()))
    run.set_tags(
        {
            "trialrun.decision": "promoted" if result.promoted else "refused",
            "mlflow.note.content": format_card(result),
        }
    )
