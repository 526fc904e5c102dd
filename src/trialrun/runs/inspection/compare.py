"""Runs side by side: what was set, what came of it, on what, and with what."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.errors import InvalidParameterError
from trialrun.files import write_durably
from trialrun.mlflow_client import connect_client
from trialrun.registry.versions import MODEL_SCHEMES
from trialrun.report.curves import draw_curves
from trialrun.report.page import Section, render_page
from trialrun.report.paired import PairedComparison
from trialrun.report.paired import compare_paired as paired
from trialrun.runs.evaluation.predictions import ImagePredictions, align_by_hash, load_predictions
from trialrun.runs.inspection.run_reader import (
    RecordedRun,
    find_run_id,
    read_environment,
    read_metric_history,
    read_run,
)
from trialrun.runs.training.initial import INITIAL_WEIGHTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

_COMPARED = ("accuracy", "macro_f1", "log_loss")
_FACTS = ("stop_reason", "stopped_epoch", "best_epoch", "weights_sha256")
_DECIDES_INITIAL_WEIGHTS = frozenset(
    {"model", "weights", "random_seed", "num_classes", "resolved_image_size"}
)
_MAX_CURVES = 12
_HASH = re.compile("[0-9a-f]{40,64}")
_SHOWN_HASH = 12
_SYSTEM = "system/"
_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One thing by name, and what it is in each run."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs disagree on it."""
        return len(set(self.values)) > 1


@dataclass(frozen=True, slots=True)
class PairedRuns:
    """A run's answers held against the first run's, on the same images."""

    run: str
    comparison: PairedComparison


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Runs side by side; every row holds a value a run, in the order of `runs`."""

    runs: tuple[str, ...]
    run_ids: tuple[str, ...]
    parameters: tuple[ComparisonRow, ...]  # those that differ
    metrics: tuple[ComparisonRow, ...]
    outcome: tuple[ComparisonRow, ...]
    data: tuple[ComparisonRow, ...]
    environment: tuple[ComparisonRow, ...]  # where it differs
    paired: tuple[PairedRuns, ...]
    histories: Mapping[str, Mapping[str, Mapping[int, float]]]  # by metric, run and epoch

    def to_json(self) -> dict[str, Any]:
        """Plain values; the tables as objects of lists."""
        tables = ("parameters", "metrics", "outcome", "data", "environment")
        return {
            "runs": self.runs,
            "run_ids": self.run_ids,
            **{table: {row.name: row.values for row in getattr(self, table)} for table in tables},
            "paired": [{"run": each.run, **asdict(each.comparison)} for each in self.paired],
            "curves": tuple(self.histories),
        }

    def sections(self) -> list[Section]:
        """The tables for people."""
        heading = ("", *self.runs)
        told = (
            ("Parameters that differ", self.parameters, "None."),
            ("Metrics (last values)", self.metrics, "None in common."),
            ("Outcome", self.outcome, "Not recorded."),
            ("Data", self.data, "Not recorded."),
            ("Environments where they differ", self.environment, "They do not."),
        )
        sections = [
            Section(
                title, heading, [(row.name, *map(_shorten_hash, row.values)) for row in rows], text
            )
            for title, rows, text in told
        ]
        sections.insert(2, self._paired_section())
        return sections

    def _paired_section(self) -> Section:
        rows = [
            (
                each.run,
                found.metric,
                f"{found.difference:+.4f}",
                f"{found.low:+.4f} to {found.high:+.4f}",
                f"{found.mcnemar_p:.3g}",
                str(found.num_images),
            )
            for each in self.paired
            for found in (each.comparison,)
        ]
        return Section(
            f"Against {self.runs[0]} on the same images (above 0 is better)",
            ("run", "metric", "difference", "95% interval", "McNemar's p", "images"),
            rows,
            "No two of them keep answers on the same images.",
        )


def compare_runs(names: Sequence[str]) -> RunComparison:
    """Runs, by id or by the model that came of them.

    Raises:
        InvalidParameterError: Fewer than two.
        TrackingError: One is not there, or the store fails.
    """
    if len(names) < 2:
        raise InvalidParameterError("one run cannot be compared", "Name two or more.")
    client = connect_client()
    runs = [read_run(client, find_run_id(client, name)) for name in names]
    labels = _name_runs(names, runs)
    return RunComparison(
        runs=labels,
        run_ids=tuple(run.run_id for run in runs),
        parameters=_compare_parameters(runs),
        metrics=_build_rows([_compare_metrics(run) for run in runs]),
        outcome=_build_rows([{f: run.tags[f] for f in _FACTS if f in run.tags} for run in runs]),
        data=_build_rows(
            [{d.name: f"{d.digest} ({d.context})" for d in run.datasets} for run in runs]
        ),
        environment=_compare_environments(client, runs),
        paired=_compare_predictions(client, runs, labels),
        histories=_collect_histories(client, runs, labels),
    )


def write_html_page(found: RunComparison, output: str) -> None:
    """The comparison with its curves, as an HTML page that needs no other file.

    Raises:
        StorageError: It cannot be written.
    """
    picture = draw_curves(found.histories, order=found.runs) if found.histories else None
    write_durably(Path(output), render_page("Runs compared", found.sections(), picture))


def _shorten_hash(value: str) -> str:
    """A hash by its beginning, which tells it from others; any other text as it is."""
    return value[:_SHOWN_HASH] + "..." if _HASH.fullmatch(value) else value


def _name_runs(names: Sequence[str], runs: Sequence[RecordedRun]) -> tuple[str, ...]:
    """What people know a run by: the version's URI, or its name; numbered where that is shared."""
    labels: list[str] = []
    for name, run in zip(names, runs, strict=True):
        label = name if name.startswith(MODEL_SCHEMES) else run.name
        labels.append(f"{label} #{len(labels) + 1}" if label in labels else label)
    return tuple(labels)


def _build_rows(columns: Sequence[Mapping[str, Any]]) -> tuple[ComparisonRow, ...]:
    names = dict.fromkeys(name for column in columns for name in column)
    return tuple(
        ComparisonRow(name, tuple(str(column.get(name, _NOTHING)) for column in columns))
        for name in names
    )


def _compare_parameters(runs: Sequence[RecordedRun]) -> tuple[ComparisonRow, ...]:
    """Those that differ; the initial weights' digest only where no setting explains it."""
    rows = [row for row in _build_rows([run.params for run in runs]) if row.differs]
    explained = any(row.name in _DECIDES_INITIAL_WEIGHTS for row in rows)
    return tuple(
        row
        for row in rows
        if row.name != INITIAL_WEIGHTS or not (explained or _NOTHING in row.values)
    )


def _compare_metrics(run: RecordedRun) -> dict[str, str]:
    return {
        name: f"{value:.6g}"
        for name, value in sorted(run.metrics.items())
        if not name.startswith(_SYSTEM)
    }


def _compare_environments(
    client: "MlflowClient", runs: Sequence[RecordedRun]
) -> tuple[ComparisonRow, ...]:
    columns = [
        {**(read_environment(client, run.run_id) or {}), "commit": run.commit} for run in runs
    ]
    return tuple(row for row in _build_rows(columns) if row.differs)


def _compare_predictions(
    client: "MlflowClient", runs: Sequence[RecordedRun], labels: Sequence[str]
) -> tuple[PairedRuns, ...]:
    """Each later run against the first, where both keep their answers on the same images."""
    first = load_predictions(client, runs[0].run_id)
    if first is None:
        return ()
    found: list[PairedRuns] = []
    for run, label in zip(runs[1:], labels[1:], strict=True):
        answers = load_predictions(client, run.run_id)
        found += [] if answers is None else _compare_pair(label, first, answers)
    return tuple(found)


def _compare_pair(
    label: str, first: ImagePredictions, second: ImagePredictions
) -> list[PairedRuns]:
    same = align_by_hash(first, second)
    if same is None:
        return []
    return [PairedRuns(label, paired(metric, *same)) for metric in _COMPARED]


def _collect_histories(
    client: "MlflowClient", runs: Sequence[RecordedRun], labels: Sequence[str]
) -> dict[str, dict[str, dict[int, float]]]:
    """The metrics that at least one run has over several epochs, by metric and run."""
    names = sorted({n for run in runs for n in run.metrics if not n.startswith(_SYSTEM)})
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name in names:
        curves = {
            label: read_metric_history(client, run.run_id, name)
            for run, label in zip(runs, labels, strict=True)
            if name in run.metrics
        }
        if any(len(curve) > 1 for curve in curves.values()):
            found[name] = curves
    losses_first = sorted(found, key=lambda name: ("loss" not in name, "accuracy" not in name))
    return {name: found[name] for name in losses_first[:_MAX_CURVES]}
