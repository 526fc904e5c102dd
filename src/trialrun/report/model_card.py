"""Model cards: what a model is, how good it is, where it fails and how to use it, in Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trialrun.report.headlines import Headline
from trialrun.report.markdown import escape_markdown
from trialrun.report.predictions import Predictions
from trialrun.report.tables import ClassReport, compute_class_reports, confusion_matrix

MAX_CHARACTERS = 4900  # MLflow's registry keeps 5,000

_FENCE = "```"
_NUM_WEAK_CLASSES = 5
_MAX_TEXT = 300  # characters of a fact
_MAX_NAME = 60  # characters of a class

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a card shows; texts of `summary` and `warnings` are Markdown, all others plain.

    `predictions` are those for the images that `results` describe; None if there are none.
    `address` is what the model is loaded from; empty if it was not kept.
    """

    title: str
    summary: str
    address: str
    warnings: Sequence[str] = ()
    results: Sequence[Headline] = ()
    level: float = 0.95
    predictions: Predictions | None = None
    facts: Facts = ()
    settings: Facts = ()
    note: str = ""


def format_card(card: ModelCard) -> str:
    """Return the card, of at most `MAX_CHARACTERS`: tables lose their last rows if it is longer."""
    parts = [
        [f"## {_shorten(card.title)}", "", card.summary],
        *(["", f"**Warning: {warning}.**"] for warning in card.warnings),
        _tabulate(
            "Results", ("metric", "value", f"{card.level:.0%} interval"), _list_results(card)
        ),
        ["", card.note] if card.note else [],
        _describe_weak_classes(card.predictions),
        _tabulate("Model and data", ("", ""), card.facts),
        _describe_use(card.address) if card.address else [],
        _tabulate("Settings that differ from the defaults", ("", ""), card.settings),
    ]
    lines = [line for part in parts for line in part]
    while len("\n".join(lines)) >= MAX_CHARACTERS or lines.count(_FENCE) % 2:
        lines.pop()
    return "\n".join(lines) + "\n"


def list_weak_classes(predictions: Predictions) -> list[tuple[ClassReport, str]]:
    """Return the classes with the lowest F1 and errors, and what each is mostly mistaken for.

    The latter is empty for a class whose images are all recognised.
    """
    classes = predictions.classes
    confusion = confusion_matrix(predictions.labels, predictions.predicted, len(classes))
    reports = compute_class_reports(confusion, classes)
    np.fill_diagonal(confusion, 0)
    weak = [index for index, report in enumerate(reports) if report.images and report.f1 < 1]
    weak.sort(key=lambda index: reports[index].f1)
    return [
        (reports[index], classes[confusion[index].argmax()] if confusion[index].any() else "")
        for index in weak[:_NUM_WEAK_CLASSES]
    ]


def _result_columns(card: ModelCard) -> tuple[str, str, str]:
    return "metric", "value", f"{card.level:.0%} interval"


def _list_results(card: ModelCard) -> Iterator[tuple[str, str, str]]:
    for row in card.results:
        yield row.name, f"{row.value:.4f}", f"{row.interval.low:.4f} to {row.interval.high:.4f}"


def _describe_weak_classes(predictions: Predictions | None) -> list[str]:
    if predictions is None:
        return []
    rows = [
        (
            _shorten(report.name, _MAX_NAME),
            str(report.images),
            f"{report.recall:.3f}",
            f"{report.precision:.3f}",
            _shorten(mistaken, _MAX_NAME),
        )
        for report, mistaken in list_weak_classes(predictions)
    ]
    if not rows:
        return ["", "### Where it fails", "", "No image of this set is classified wrongly."]
    columns = ("class", "images", "recall", "precision", "mostly mistaken for")
    return _format_table("Where it fails", columns, rows)


def _describe_use(address: str) -> list[str]:
    return [
        "",
        "### Use",
        "",
        _FENCE,
        f"trialrun score {address} IMAGES --output scores.csv",
        f"trialrun serve {address}",
        f"mlflow models serve -m {address} --env-manager uv",
        f"python -c \"import trialrun; model = trialrun.load_model('{address}')\"",
        "```",
    ]


def _tabulate(
    title: str, columns: Sequence[str], rows: "Facts | Iterator[tuple[str, ...]]"
) -> list[str]:
    escaped = [tuple(map(_shorten, row)) for row in rows]
    return _format_table(title, columns, escaped) if escaped else []


def _format_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return ["", f"### {title}", "", *head, *(f"| {' | '.join(row)} |" for row in rows)]


def _shorten(text: str, length: int = _MAX_TEXT) -> str:
    """Return the text as Markdown for one cell, shortened in its middle."""
    if len(text) > length:
        text = f"{text[: length // 2]}…{text[-length // 2 :]}"
    return escape_markdown(text)
