"""Compares runs: parameters, metrics, outcome, datasets, environments and predictions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.config import build_config
from trialrun.config.evaluate import CompareConfig
from trialrun.errors import InvalidParameterError
from trialrun.files import write_durably
from trialrun.mlflow_client import connect_client
from trialrun.registry.versions import MODEL_SCHEMES
from trialrun.report.figures.curves import draw_curves
from trialrun.report.html_tables import render_table
from trialrun.report.page import Picture, Section, render_page
from trialrun.runs.inspection.paired_runs import PairedRuns, compare_predictions
from trialrun.runs.inspection.run_reader import (
    RecordedRun,
    find_run_id,
    read_config,
    read_environment,
    read_metric_history,
    read_run,
)
from trialrun.runs.training.initial import INITIAL_WEIGHTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

_OUTCOME_TAGS = ("stop_reason", "stopped_epoch", "best_epoch", "weights_sha256")
_DECIDES_INITIAL_WEIGHTS = frozenset(
    {"model", "weights", "random_seed", "num_classes", "resolved_image_size"}
)
_MAX_CURVES = 12
_HASH = re.compile("[0-9a-f]{40,64}")
_SHORT_HASH_LENGTH = 12
_SYSTEM_PREFIX = "system/"
_MISSING = "-"


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A named value in each of the runs."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the value differs between the runs."""
        return len(set(self.values)) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """A comparison of runs; every row has one value per run, in the order of `runs`."""

    runs: tuple[str, ...]
    run_ids: tuple[str, ...]
    parameters: tuple[ComparisonRow, ...]  # only those that differ
    metrics: tuple[ComparisonRow, ...]
    outcome: tuple[ComparisonRow, ...]
    data: tuple[ComparisonRow, ...]
    environment: tuple[ComparisonRow, ...]  # only what differs
    paired: tuple[PairedRuns, ...]
    histories: Mapping[str, Mapping[str, Mapping[int, float]]]  # by metric, run and epoch

    def to_json(self) -> dict[str, Any]:
        """Return plain values; each table is an object of lists."""
        tables = ("parameters", "metrics", "outcome", "data", "environment")
        return {
            "runs": self.runs,
            "run_ids": self.run_ids,
            **{table: {row.name: row.values for row in getattr(self, table)} for table in tables},
            "paired": [{"run": pair.run, **pair.comparison.to_json()} for pair in self.paired],
            "curves": tuple(self.histories),
        }

    def _repr_html_(self) -> str:
        """Return the tables of the report for notebooks."""
        return "".join(
            render_table(section.title, section.rows, heading=section.heading)
            for section in self.sections()
            if section.rows
        )

    def sections(self) -> list[Section]:
        """Return the tables of the report, with hashes shortened."""
        heading = ("", *self.runs)
        tables = (
            ("Parameters that differ", self.parameters, "None."),
            ("Metrics (last values)", self.metrics, "None in common."),
            ("Outcome", self.outcome, "Not recorded."),
            ("Data", self.data, "Not recorded."),
            ("Environments that differ", self.environment, "None."),
        )
        sections = [
            Section(
                title,
                heading,
                [(row.name, *map(_shorten_hash, row.values)) for row in rows],
                empty_text,
            )
            for title, rows, empty_text in tables
        ]
        sections.insert(2, self._paired_section())
        return sections

    def _paired_section(self) -> Section:
        rows = [
            (
                pair.run,
                pair.comparison.metric,
                f"{pair.comparison.difference:+.4f}",
                f"{pair.comparison.low:+.4f} to {pair.comparison.high:+.4f}",
                _MISSING if (p := pair.comparison.mcnemar_p) is None else f"{p:.3g}",
                str(pair.comparison.num_images),
                _MISSING if (groups := pair.comparison.num_groups) is None else str(groups),
            )
            for pair in self.paired
        ]
        return Section(
            f"Against {self.runs[0]} on the same images (above 0 is better)",
            ("run", "metric", "difference", "interval", "McNemar's p", "images", "groups"),
            rows,
            "No other run has predictions for the same images.",
        )


def compare_runs(names: Sequence[str], values: Mapping[str, Any] | None = None) -> RunComparison:
    """Compare runs, given by id or by their models, with the first of them.

    Args:
        names: Two or more runs.
        values: The settings of `CompareConfig`; None takes their defaults.

    Raises:
        InvalidParameterError: `names` has fewer than two runs.
        TrackingError: A run does not exist, or the store fails.
    """
    if len(names) < 2:
        raise InvalidParameterError(
            "a comparison needs two or more runs", "Give two or more run ids or models."
        )
    config = build_config(CompareConfig, values or {})
    client = connect_client()
    runs = [read_run(client, find_run_id(client, name)) for name in names]
    labels = _name_runs(names, runs)
    return RunComparison(
        runs=labels,
        run_ids=tuple(run.run_id for run in runs),
        parameters=_compare_parameters(client, runs),
        metrics=_build_rows([_format_metrics(run) for run in runs]),
        outcome=_build_rows([_read_outcome(run) for run in runs]),
        data=_build_rows([_describe_datasets(run) for run in runs]),
        environment=_compare_environments(client, runs),
        paired=compare_predictions(client, runs, labels, config),
        histories=_collect_histories(client, runs, labels),
    )


def write_html_page(comparison: RunComparison, output: str) -> None:
    """Write the comparison with its curves as a self-contained HTML page.

    Raises:
        StorageError: The page cannot be written.
    """
    histories = comparison.histories
    sections = comparison.sections()
    if histories:
        picture = Picture("curves by epoch", draw_curves(histories, order=comparison.runs))
        sections.append(Section("Curves", pictures=[picture]))
    write_durably(Path(output), render_page("Runs compared", sections))


def _shorten_hash(value: str) -> str:
    """Return the first characters of a hash, and any other text unchanged."""
    return value[:_SHORT_HASH_LENGTH] + "..." if _HASH.fullmatch(value) else value


def _name_runs(names: Sequence[str], runs: Sequence[RecordedRun]) -> tuple[str, ...]:
    """Label each run by its model's URI or its name, with a number if the label is taken."""
    labels: list[str] = []
    for name, run in zip(names, runs, strict=True):
        label = name if name.startswith(MODEL_SCHEMES) else run.name
        labels.append(f"{label} #{len(labels) + 1}" if label in labels else label)
    return tuple(labels)


def _build_rows(columns: Sequence[Mapping[str, Any]]) -> tuple[ComparisonRow, ...]:
    names = dict.fromkeys(name for column in columns for name in column)
    return tuple(
        ComparisonRow(name, tuple(str(column.get(name, _MISSING)) for column in columns))
        for name in names
    )


def _compare_parameters(
    client: "MlflowClient", runs: Sequence[RecordedRun]
) -> tuple[ComparisonRow, ...]:
    """Return the rows that differ, without an initial weights' hash that a setting explains.

    The exact settings replace the parameters, which MLflow may have cut.
    """
    columns = [{**run.params, **(read_config(client, run.run_id) or {})} for run in runs]
    rows = [row for row in _build_rows(columns) if row.differs]
    is_explained = any(row.name in _DECIDES_INITIAL_WEIGHTS for row in rows)
    return tuple(
        row
        for row in rows
        if row.name != INITIAL_WEIGHTS or not (is_explained or _MISSING in row.values)
    )


def _format_metrics(run: RecordedRun) -> dict[str, str]:
    return {
        name: f"{value:.6g}"
        for name, value in sorted(run.metrics.items())
        if not name.startswith(_SYSTEM_PREFIX)
    }


def _read_outcome(run: RecordedRun) -> dict[str, str]:
    return {name: run.tags[name] for name in _OUTCOME_TAGS if name in run.tags}


def _describe_datasets(run: RecordedRun) -> dict[str, str]:
    return {dataset.name: f"{dataset.digest} ({dataset.context})" for dataset in run.datasets}


def _compare_environments(
    client: "MlflowClient", runs: Sequence[RecordedRun]
) -> tuple[ComparisonRow, ...]:
    columns = [
        {**(read_environment(client, run.run_id) or {}), "commit": run.commit} for run in runs
    ]
    return tuple(row for row in _build_rows(columns) if row.differs)


def _collect_histories(
    client: "MlflowClient", runs: Sequence[RecordedRun], labels: Sequence[str]
) -> dict[str, dict[str, dict[int, float]]]:
    """Return the metrics that at least one run has at several epochs, by metric and run."""
    names = sorted(
        {name for run in runs for name in run.metrics if not name.startswith(_SYSTEM_PREFIX)}
    )
    histories: dict[str, dict[str, dict[int, float]]] = {}
    for name in names:
        curves = {
            label: read_metric_history(client, run.run_id, name)
            for run, label in zip(runs, labels, strict=True)
            if name in run.metrics
        }
        if any(len(curve) > 1 for curve in curves.values()):
            histories[name] = curves
    losses_first = sorted(histories, key=lambda name: ("loss" not in name, "accuracy" not in name))
    return {name: histories[name] for name in losses_first[:_MAX_CURVES]}
