"""A version judged for an alias, as an MLflow run; the alias moves where every gate says so."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.config import from_values
from trialrun.config.promote import PromoteConfig
from trialrun.errors import PromotionRefusedError
from trialrun.files import as_json
from trialrun.images.survey import Survey
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.registry import model_folder
from trialrun.registry.alias import read_succession, succeed, user_name
from trialrun.registry.gates import Evidence, Overlap, Verdict, judge
from trialrun.registry.history import PROMOTION, Entry, Succession, now
from trialrun.registry.versions import (
    TRAINED_ON,
    Version,
    file_hashes,
    find_version,
    link_models,
)
from trialrun.report.bootstrap import Resampling
from trialrun.report.metrics import recall_by_class, values_of
from trialrun.report.paired import PairedComparison, compare
from trialrun.runs.answers import (
    AnsweredImages,
    answered,
    answers,
    keep,
    open_labelled,
    readable_rows,
)
from trialrun.runs.evaluate import record_dataset, record_metrics, record_tables
from trialrun.runs.observer import Observer, Silent
from trialrun.runs.score import contents
from trialrun.scoring import score
from trialrun.store import connect
from trialrun.tracking import TrackedRun, dataset_digest, open_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION_PREDICTIONS = "champion_predictions.parquet"
_LATENCY_IMAGES, _WARM_UP_IMAGES = 30, 3
_BYTES_PER_MB = 1e6


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


def promote(
    name: str,
    version: str,
    data: str,
    values: Mapping[str, Any],
    observer: Observer | None = None,
) -> Promotion:
    """Judge `version` of `name` on `data`, and move the alias to it if every gate lets it pass.

    A refusal is in the result, so that its evidence can be shown; `Promotion.check` raises it.

    Raises:
        TrialrunError: The version could not be judged.
    """
    config = from_values(PromoteConfig, values)
    config.minimums()  # a bad one is told before anything is scored
    observer = observer or Silent()
    client = connect()
    succession = read_succession(client, name, config.alias)
    challenger = find_version(client, name, version)
    if challenger.number == succession.holder:
        raise PromotionRefusedError(
            f"{challenger} is the {config.alias} already", "`trialrun history` shows since when."
        )
    holder = succession.holder
    champion = find_version(client, name, holder) if holder else None
    surveyed = open_labelled(data)
    tags = {"trialrun.kind": "promotion", "trialrun.registered_model": name}
    with open_run(client, experiment=config.experiment, name=config.run_name, tags=tags) as run:
        observer.opened(run.name, run.run_id)
        run.params(config.params() | {"name": name, "version": challenger.number, "data": data})
        link_models(
            client, run.run_id, [each.origin.model_id for each in (challenger, champion) if each]
        )
        record_dataset(run, surveyed)
        result = _judged(run, config, surveyed, challenger, champion)
        if result.promoted:
            result = _moved(client, config, succession, result)
        _record_decision(run, result)
    return result


def _judged(
    run: TrackedRun,
    config: PromoteConfig,
    surveyed: Survey,
    challenger: Version,
    champion: Version | None,
) -> Promotion:
    folder = model_folder(challenger.uri)
    network = open_classifier(folder)
    scores = answers(network, surveyed)
    rival = open_classifier(model_folder(champion.uri)) if champion else None
    rival_scores = answers(rival, surveyed) if rival else scores
    rows = readable_rows(surveyed, scores, rival_scores)
    mine = answered(surveyed, rows, network.classes, scores)
    theirs = answered(surveyed, rows, rival.classes, rival_scores) if rival else None
    evidence = Evidence(
        metrics=values_of(mine.predictions),
        size_mb=_folder_bytes(folder) / _BYTES_PER_MB,
        latency_ms=_latency_ms(network, surveyed) if config.max_latency_ms is not None else None,
        overlaps=_overlaps(run.client, surveyed, challenger, champion),
        class_differences=_class_differences(
            surveyed, network.classes, rival.classes if rival else None
        ),
        comparison=_comparison(config, mine, theirs),
        recall=recall_by_class(mine.predictions),
        champion_recall=recall_by_class(theirs.predictions) if theirs else {},
    )
    verdict = judge(config, evidence)
    _record_evidence(run, surveyed, challenger, mine, evidence)
    if champion and theirs:
        keep(run, theirs, name=CHAMPION_PREDICTIONS)
        figures = values_of(theirs.predictions)
        named = {f"champion_{metric}": value for metric, value in figures.items()}
        record_metrics(run, named, surveyed, champion.origin.model_id)
    return Promotion(
        name=challenger.name,
        version=challenger.number,
        alias=config.alias,
        champion=champion.number if champion else None,
        run_id=run.run_id,
        data=surveyed.images.source,
        data_digest=dataset_digest(surveyed),
        num_images=len(rows),
        verdict=verdict,
        metrics=evidence.metrics,
        comparison=evidence.comparison,
        refusal=None if verdict.passed else _refusal(challenger, config, verdict),
    )


def _comparison(
    config: PromoteConfig, mine: AnsweredImages, theirs: AnsweredImages | None
) -> PairedComparison | None:
    if theirs is None:
        return None
    resampling = Resampling(
        draws=config.draws, confidence=config.confidence, random_seed=config.random_seed
    )
    return compare(config.metric, theirs.predictions, mine.predictions, resampling)


def _overlaps(
    client: "MlflowClient", surveyed: Survey, *versions: Version | None
) -> tuple[Overlap, ...]:
    test = {seen.sha256 for seen in surveyed.sightings} - {""}
    found = []
    for version in versions:
        if version is None:
            continue
        hashes = file_hashes(client, version.origin.run_id)
        count = None if hashes is None else len(test & hashes[TRAINED_ON])
        found.append(Overlap(f"version {version.number}", count))
    return tuple(found)


def _class_differences(
    surveyed: Survey, classes: Sequence[str], rival: Sequence[str] | None
) -> tuple[str, ...]:
    known, labelled = set(classes), set(surveyed.images.classes)
    told = [("the challenger lacks, though the test data has it", labelled - known)]
    if rival is not None:
        told += [
            ("only the challenger knows", known - set(rival)),
            ("only the champion knows", set(rival) - known),
        ]
    return tuple(f"{what}: {', '.join(sorted(names))}" for what, names in told if names)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _latency_ms(network: ImageClassifier, surveyed: Survey) -> float:
    """From one image's bytes to its probabilities, the median of a few."""
    data = [each for each in contents(surveyed.images) if each is not None][:_LATENCY_IMAGES]
    seconds = []
    for each in data[:_WARM_UP_IMAGES] + data:
        started = time.perf_counter()
        list(score(network, [each]))
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[_WARM_UP_IMAGES:] or [float("nan")])


def _refusal(challenger: Version, config: PromoteConfig, verdict: Verdict) -> PromotionRefusedError:
    reasons = "; ".join(
        f"{gate.name}: asked {gate.asked}, found {gate.found}" for gate in verdict.failed
    )
    return PromotionRefusedError(
        f"{challenger} does not become {config.alias}: {reasons}",
        "The alias has not moved. Train a better version, or ask for less.",
    )


def _moved(
    client: "MlflowClient", config: PromoteConfig, judged: Succession, result: Promotion
) -> Promotion:
    """Move the alias; the result with a refusal where somebody else was first."""
    entry = Entry(
        number=0,
        kind=PROMOTION,
        version=result.version,
        replaced=result.champion,
        at=now(),
        user=user_name(),
        reason=config.reason or _default_reason(result),
        run_id=result.run_id,
        data=result.data,
        data_digest=result.data_digest,
        figures=_figures(result),
    )
    try:
        succeed(client, judged, entry)
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


def _figures(result: Promotion) -> dict[str, float]:
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


def _record_evidence(
    run: TrackedRun,
    surveyed: Survey,
    challenger: Version,
    images: AnsweredImages,
    evidence: Evidence,
) -> None:
    figures = dict(evidence.metrics) | {"size_mb": evidence.size_mb}
    if evidence.latency_ms is not None:
        figures["latency_ms"] = evidence.latency_ms
    if (found := evidence.comparison) is not None:
        figures |= {
            "difference": found.difference,
            "difference_low": found.low,
            "difference_high": found.high,
            "mcnemar_p": found.mcnemar_p,
        }
    record_metrics(run, figures, surveyed, challenger.origin.model_id)
    record_tables(run, images.predictions)
    keep(run, images)


def _record_decision(run: TrackedRun, result: Promotion) -> None:
    run.text("promotion.json", as_json(result.to_json()))
    run.tags(
        {
            "trialrun.decision": "promoted" if result.promoted else "refused",
            "mlflow.note.content": _card(result),
        }
    )


def _card(result: Promotion) -> str:
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
