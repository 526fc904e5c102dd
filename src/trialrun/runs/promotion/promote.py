"""Promotion: evaluates a version in an MLflow run and moves the alias if all gates pass."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from trialrun.config import build_config
from trialrun.config.promote import PromoteConfig
from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import PromotionRefusedError
from trialrun.files import format_json
from trialrun.images.scanning.scan import DatasetScan
from trialrun.mlflow_client import connect_client
from trialrun.registry.alias import find_user_name, move_alias, read_alias_history
from trialrun.registry.gates import Verdict, evaluate_gates
from trialrun.registry.history import PROMOTION, AliasEntry, AliasHistory, format_now
from trialrun.registry.versions import ModelVersion, check_version, find_version, link_models
from trialrun.report.paired import PairedComparison
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.evaluation.evaluate import log_dataset
from trialrun.runs.evaluation.predictions import open_labelled_data
from trialrun.runs.promotion.evidence import evaluate_candidates, log_evidence
from trialrun.tracking import TrackedRun, open_run, truncate_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """The result of a promotion, with a `refusal` unless the alias moved."""

    name: str
    version: str
    alias: str
    champion: str | None  # the version that it was compared with
    run_id: str
    data: str
    data_digest: str
    num_images: int
    verdict: Verdict
    metrics: Mapping[str, float]
    comparison: PairedComparison | None
    refusal: PromotionRefusedError | None = None

    @property
    def promoted(self) -> bool:
        """Whether the alias moved."""
        return self.refusal is None

    def raise_if_refused(self) -> None:
        """Raise the refusal, if there is one.

        Raises:
            PromotionRefusedError: The alias did not move.
        """
        if self.refusal is not None:
            raise self.refusal

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "promoted": self.promoted,
            "name": self.name,
            "version": self.version,
            "alias": self.alias,
            "champion": self.champion,
            "run_id": self.run_id,
            "data": self.data,
            "data_digest": self.data_digest,
            "num_images": self.num_images,
            "metrics": dict(self.metrics),
            "comparison": asdict(self.comparison) if self.comparison else None,
            "gates": self.verdict.to_json(),
            "refusal": str(self.refusal) if self.refusal else None,
        }


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
    challenger = _find_challenger(client, history, version)
    champion = find_version(client, name, history.last_holder) if history.last_holder else None
    if note := history.last_holder_note:
        callback.on_note(note)
    scan = open_labelled_data(data)
    tags = {"trialrun.kind": "promotion", "trialrun.registered_model": name}
    with open_run(client, experiment=config.experiment, name=config.run_name, tags=tags) as run:
        callback.on_run_start(run.name, run.run_id)
        arguments = {"name": name, "version": challenger.number, "data": data}
        run.log_params(config.params() | {"resolved_device": str(device)} | arguments)
        result = _evaluate_candidate(run, config, scan, challenger, champion)
        if result.promoted:
            result = _move_alias(client, config, history, result)
        _log_decision(run, result)
    return result


def _find_challenger(client: "MlflowClient", history: AliasHistory, version: str) -> ModelVersion:
    challenger = find_version(client, history.name, version)
    if challenger.number == history.holder:
        raise PromotionRefusedError(
            f"{challenger} is the {history.alias} already", "`trialrun history` shows since when."
        )
    return challenger


def _evaluate_candidate(
    run: TrackedRun,
    config: PromoteConfig,
    scan: DatasetScan,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> Promotion:
    model_ids = [version.origin.model_id for version in (challenger, champion) if version]
    link_models(run.client, run.run_id, model_ids)
    log_dataset(run, scan)
    evaluation = evaluate_candidates(run.client, config, scan, challenger, champion)
    log_evidence(run, scan, evaluation)
    verdict = evaluate_gates(config, evaluation.evidence)
    return Promotion(
        name=challenger.name,
        version=challenger.number,
        alias=config.alias,
        champion=champion.number if champion else None,
        run_id=run.run_id,
        data=scan.images.source,
        data_digest=truncate_digest(scan),
        num_images=len(evaluation.challenger_predictions.predictions),
        verdict=verdict,
        metrics=evaluation.evidence.metrics,
        comparison=evaluation.evidence.comparison,
        refusal=None if verdict.passed else _make_refusal(challenger, config, verdict),
    )


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
        reason=config.reason or _default_reason(result),
        run_id=result.run_id,
        data=result.data,
        data_digest=result.data_digest,
        figures=_collect_figures(result),
    )
    try:
        move_alias(client, history, entry)
    except PromotionRefusedError as refusal:
        return replace(result, refusal=refusal)
    return result


def _default_reason(result: Promotion) -> str:
    comparison = result.comparison
    if comparison is None:
        return "the first"
    return (
        f"{comparison.metric} {comparison.difference:+.4f} "
        f"[{comparison.low:+.4f}, {comparison.high:+.4f}] "
        f"against version {result.champion}"
    )


def _collect_figures(result: Promotion) -> dict[str, float]:
    figures = {name: round(value, 6) for name, value in result.metrics.items()}
    if (comparison := result.comparison) is not None:
        figures |= {
            f"champion_{comparison.metric}": round(comparison.baseline, 6),
            "difference": round(comparison.difference, 6),
            "low": round(comparison.low, 6),
            "high": round(comparison.high, 6),
            "mcnemar_p": float(f"{comparison.mcnemar_p:.4g}"),
        }
    return figures


def _log_decision(run: TrackedRun, result: Promotion) -> None:
    run.log_text("promotion.json", format_json(result.to_json()))
    run.set_tags(
        {
            "trialrun.decision": "promoted" if result.promoted else "refused",
            "mlflow.note.content": _format_card(result),
        }
    )


def _format_card(result: Promotion) -> str:
    champion = f"version {result.champion}" if result.champion else "no champion"
    outcome = "became" if result.promoted else "did not become"
    lines = [
        f"## {result.name} version {result.version} {outcome} {result.alias}",
        "",
        f"Compared with {champion} on {result.num_images} images of {result.data}.",
        "",
        "| | gate | required | found |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {'passed' if gate.passed else '**refused**'} | {gate.name} | {gate.asked} "
        f"| {gate.found} |"
        for gate in result.verdict.gates
    ]
    if result.verdict.passed and result.refusal:
        lines += ["", str(result.refusal)]
    return "\n".join(lines)
