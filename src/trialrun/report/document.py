"""The report of a model on a labelled set: pictures, tables and one page with all of them.

Array letters: N images, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trialrun.report.calibration import Calibration, measure_calibration
from trialrun.report.figures.confusion import draw_confusion_matrix
from trialrun.report.figures.curves import Curves, draw_curves
from trialrun.report.figures.gallery import Mistake, draw_mistakes, draw_thumbnail
from trialrun.report.figures.reliability import draw_calibration
from trialrun.report.headlines import Headline, compute_averages, compute_headlines
from trialrun.report.intervals import Groups
from trialrun.report.page import Picture, Section, render_page
from trialrun.report.predictions import Predictions
from trialrun.report.tables import ClassReport, compute_class_reports, confusion_matrix

_NUM_PAIRS = 20


@dataclass(frozen=True, slots=True)
class Suspects:
    """Images whose label is probably wrong: the positions of all, and the first of them."""

    positions: Sequence[int]
    shown: Sequence[Mistake]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """What a report shows.

    `curves[panel][line][epoch]` is a value; empty without a training. `mistakes` are the worst of
    them. `suspects` are None if labels are not audited. `facts` are names and values of the first
    table, such as the model and the digest of the data.
    """

    title: str
    predictions: Predictions
    top5_accuracy: float | None
    mistakes: Sequence[Mistake]
    suspects: Suspects | None = None
    facts: Sequence[tuple[str, str]] = ()
    curves: Curves = field(default_factory=dict)
    level: float = 0.95
    groups: Groups | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The headline metrics, the page, and the content of each picture by its file name."""

    headlines: Sequence[Headline]
    page: str
    pictures: Mapping[str, bytes]


def find_worst_mistakes(predictions: Predictions, number: int) -> list[int]:
    """Return the positions of the wrong predictions with the highest confidence, at most `number`.

    Without confidences, those with the lowest probability of the label.
    """
    wrong = np.flatnonzero(~predictions.right)
    if predictions.confidence is None:
        order = np.argsort(predictions.label_probability[wrong], kind="stable")
    else:
        order = np.argsort(-predictions.confidence[wrong], kind="stable")
    worst: list[int] = wrong[order[:number]].tolist()
    return worst


def build_report(data: ReportData) -> Report:
    """Compute the metrics, draw the pictures and write the page."""
    calibration = _measure_calibration(data)
    headlines = compute_headlines(
        data.predictions, calibration, data.top5_accuracy, level=data.level, groups=data.groups
    )
    pictures = dict(_draw_pictures(data, calibration))
    sections = list(_list_sections(data, headlines, calibration, pictures))
    return Report(headlines, render_page(data.title, sections), pictures)


def _measure_calibration(data: ReportData) -> Calibration | None:
    confidence = data.predictions.confidence
    if confidence is None:
        return None
    return measure_calibration(confidence, data.predictions.right, data.level)


def _draw_pictures(
    data: ReportData, calibration: Calibration | None
) -> Iterator[tuple[str, bytes]]:
    if data.curves:
        lines = dict.fromkeys(line for panel in data.curves.values() for line in panel)
        yield "curves.png", draw_curves(data.curves, order=list(lines))
    yield "confusion_matrix.png", draw_confusion_matrix(_count(data), data.predictions.classes)
    if calibration is not None:
        yield "calibration.png", draw_calibration(calibration)
    if data.mistakes:
        yield "worst_mistakes.png", draw_mistakes(data.mistakes)
    if any(mistake.heat is not None for mistake in data.mistakes):
        yield "worst_mistakes_heat.png", draw_mistakes(data.mistakes, with_heat=True)


def _count(data: ReportData) -> NDArray[np.int64]:
    predictions = data.predictions
    return confusion_matrix(predictions.labels, predictions.predicted, len(predictions.classes))


def _report_classes(data: ReportData) -> list[ClassReport]:
    return compute_class_reports(_count(data), data.predictions.classes)


def _list_sections(
    data: ReportData,
    headlines: Sequence[Headline],
    calibration: Calibration | None,
    pictures: Mapping[str, bytes],
) -> Iterator[Section]:
    yield Section("Model and data", ("", ""), list(data.facts))
    yield Section(
        "Results",
        ("metric", "value", f"{data.level:.0%} interval"),
        [format_headline(row) for row in headlines],
        note=f"{len(data.predictions)} images.",
    )
    yield Section(
        "Averages over classes",
        ("average", "precision", "recall", "F1"),
        [
            (row.name, f"{row.precision:.4f}", f"{row.recall:.4f}", f"{row.f1:.4f}")
            for row in compute_averages(_report_classes(data))
        ],
    )
    if data.curves:
        yield _show("Curves", "Values by epoch.", pictures, ("curves.png",))
    yield from _list_confusions(data, pictures)
    if calibration is not None:
        note = "A calibrated model with a confidence of 80 % is right in 80 % of the cases."
        yield _show("Calibration", note, pictures, ("calibration.png",))
    yield _describe_mistakes(data, pictures)
    if data.suspects is not None:
        yield _describe_suspects(data.suspects)
    yield _tabulate_classes(data)


def format_headline(row: Headline) -> tuple[str, str, str]:
    """Return the metric, its value and its interval as text."""
    return row.name, f"{row.value:.4f}", f"{row.interval.low:.4f} to {row.interval.high:.4f}"


def _show(title: str, note: str, pictures: Mapping[str, bytes], names: Sequence[str]) -> Section:
    shown = [Picture(name, pictures[name]) for name in names if name in pictures]
    return Section(title, pictures=shown, note=note)


def _list_confusions(data: ReportData, pictures: Mapping[str, bytes]) -> Iterator[Section]:
    note = "Each row is a true class, each column a predicted one."
    yield _show("Confusion matrix", note, pictures, ("confusion_matrix.png",))
    confusion, classes = _count(data), data.predictions.classes
    np.fill_diagonal(confusion, 0)
    largest = np.argsort(-confusion, axis=None, kind="stable")[:_NUM_PAIRS]
    pairs = zip(*np.unravel_index(largest, confusion.shape), strict=True)
    rows = [
        (classes[true], classes[predicted], str(confusion[true, predicted]))
        for true, predicted in pairs
        if confusion[true, predicted]
    ]
    yield Section(
        "Classes that are confused most",
        ("true class", "predicted class", "images"),
        rows,
        "No image is classified wrongly.",
    )


def _describe_mistakes(data: ReportData, pictures: Mapping[str, bytes]) -> Section:
    names = ("worst_mistakes.png", "worst_mistakes_heat.png")
    if not data.mistakes:
        return Section("Worst mistakes", text="No image is classified wrongly.")
    note = (
        f"The {len(data.mistakes)} wrong predictions with the highest confidence, as the network "
        "saw the images."
    )
    if names[1] in pictures:
        note += " The second picture marks where the predicted class was found (Grad-CAM)."
    return _show("Worst mistakes", note, pictures, names)


def _describe_suspects(suspects: Suspects) -> Section:
    rows = [
        (image.name, image.label, image.predicted, f"{image.confidence:.1%}")
        for image in suspects.shown
    ]
    if not rows:
        return Section("Suspected label errors", text="No label is suspected.")
    return Section(
        "Suspected label errors",
        ("image", "name", "label", "predicted", "confidence"),
        rows,
        thumbnails=[draw_thumbnail(image.pixels) for image in suspects.shown],
        note=f"{len(suspects.positions)} images, the least likely label first (confident learning, "
        f"computed by cleanlab); {len(rows)} are shown. Look at them before you change a label.",
    )


def _tabulate_classes(data: ReportData) -> Section:
    rows = [
        (
            report.name,
            str(report.images),
            f"{report.precision:.4f}",
            f"{report.recall:.4f}",
            f"{report.f1:.4f}",
        )
        for report in _report_classes(data)
    ]
    return Section("Classes", ("class", "images", "precision", "recall", "F1"), rows)
