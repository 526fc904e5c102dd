"""A version judged for an alias, as an MLflow run; the alias moves where every gate says so."""

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
    """How a version was judged, and what came of it; `refusal` is None where the alias moved."""

    name: str
    version: str
    alias: str
    champion: str | None  # the version it was judged against
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

    def check(self) -> None:
        """Raise the refusal, where there is one."""
        if self.refusal is not None:
            raise self.refusal

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
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
    """Judge `version` of `name` on `data`, and move the alias to it if every gate lets it pass.

    A refusal is in the result, so that its evidence can be shown; `Promotion.check` raises it.

    Raises:
        TrialrunError: The version could not be judged.
    """
    config = build_config(PromoteConfig, values)
    device = find_device(config.device)
    check_version(version)
    callback = callback or NoOpCallback()
    client = connect_client()
    succession = read_alias_history(client, name, config.alias)
    challenger = find_version(client, name, version)
    if challenger.number == succession.holder:
        raise PromotionRefusedError(
            f"{challenger} is the {config.alias} already", "`trialrun history` shows since when."
        )
    champion = find_version(client, name, succession.holder) if succession.holder else None
    scan = open_labelled_data(data)
    tags = {"trialrun.kind": "promotion", "trialrun.registered_model": name}
    with open_run(client, experiment=config.experiment, name=config.run_name, tags=tags) as run:
        callback.on_run_start(run.name, run.run_id)
        given = {"name": name, "version": challenger.number, "data": data}
        run.params(config.params() | {"resolved_device": str(device)} | given)
        result = _evaluate_candidate(run, config, scan, challenger, champion)
        if result.promoted:
            result = _move_alias(client, config, succession, result)
        _log_decision(run, result)
    return result


def _evaluate_candidate(
    run: TrackedRun,
    config: PromoteConfig,
    scan: DatasetScan,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> Promotion:
    rivals = [each.origin.model_id for each in (challenger, champion) if each]
    link_models(run.client, run.run_id, rivals)
    log_dataset(run, scan)
    contest = evaluate_candidates(run.client, config, scan, challenger, champion)
    log_evidence(run, scan, contest)
    verdict = evaluate_gates(config, contest.evidence)
    return Promotion(
        name=challenger.name,
        version=challenger.number,
        alias=config.alias,
        champion=champion.number if champion else None,
        run_id=run.run_id,
        data=scan.images.source,
        data_digest=truncate_digest(scan),
        num_images=len(contest.challenger_predictions.predictions),
        verdict=verdict,
        metrics=contest.evidence.metrics,
        comparison=contest.evidence.comparison,
        refusal=None if verdict.passed else _make_refusal(challenger, config, verdict),
    )


def _make_refusal(
    challenger: ModelVersion, config: PromoteConfig, verdict: Verdict
) -> PromotionRefusedError:
    reasons = "; ".join(
        f"{gate.name}: asked {gate.asked}, found {gate.found}" for gate in verdict.failed
    )
    needed = verdict.images_needed
    return PromotionRefusedError(
        f"{challenger} does not become {config.alias}: {reasons}",
        "The alias has not moved. "
        + (f"About {needed} images answered like these would show it. " if needed else "")
        + "Train a better version, or ask for less.",
    )


def _move_alias(
    client: "MlflowClient", config: PromoteConfig, judged: AliasHistory, result: Promotion
) -> Promotion:
    """Move the alias; the result with a refusal where somebody else was first."""
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
        move_alias(client, judged, entry)
    except PromotionRefusedError as refusal:
        return replace(result, refusal=refusal)
    return result


def _default_reason(result: Promotion) -> str:
    found = result.comparison
    if found is None:
        return "the first"
    return (
        f"{found.metric} {found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}] "
        f"against version {result.champion}"
    )


def _collect_figures(result: Promotion) -> dict[str, float]:
    figures = {name: round(value, 6) for name, value in result.metrics.items()}
    if (found := result.comparison) is not None:
        figures |= {
            f"champion_{found.metric}": round(found.baseline, 6),
            "difference": round(found.difference, 6),
            "low": round(found.low, 6),
            "high": round(found.high, 6),
            "mcnemar_p": float(f"{found.mcnemar_p:.4g}"),
        }
    return figures


def _log_decision(run: TrackedRun, result: Promotion) -> None:
    run.text("promotion.json", format_json(result.to_json()))
    run.tags(
        {
            "trialrun.decision": "promoted" if result.promoted else "refused",
            "mlflow.note.content": _format_card(result),
        }
    )


def _format_card(result: Promotion) -> str:
    rival = f"version {result.champion}" if result.champion else "nobody"
    outcome = "became" if result.promoted else "did not become"
    lines = [
        f"## {result.name} version {result.version} {outcome} {result.alias}",
        "",
        f"Judged against {rival} on {result.num_images} images of {result.data}.",
        "",
        "| | gate | asked | found |",
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
