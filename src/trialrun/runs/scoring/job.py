"""A scoring job: the images, the outputs, and writing of the rows in their order."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from trialrun.config.score import ScoreConfig
from trialrun.images import ImageItem, ImageSet
from trialrun.report.html_tables import render_fields
from trialrun.runs.datasets.outputs import check_embeddings
from trialrun.runs.scoring.classes import count_unknown_classes
from trialrun.runs.scoring.columns import Columns, ScoredItem
from trialrun.runs.scoring.draft import Draft, Output
from trialrun.runs.scoring.tables import EmbeddingTable, choose_format
from trialrun.scoring.labels import read_threshold

_TABLE, _EMBEDDINGS = "table", "embeddings"
# Rows are written when there are so many, or after so many seconds: a kill loses no more than that.
_FLUSH_ROWS, _FLUSH_SECONDS = 4096, 5.0


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The file of scores, and the numbers of images and errors in it.

    `num_continued` images were scored by an interrupted process with the same arguments.
    """

    output: str
    num_images: int
    num_errors: int
    unknown_classes: Mapping[str, int] = field(default_factory=dict)  # images per class
    num_continued: int = 0
    embeddings: str | None = None
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        fields = {
            "output": self.output,
            "images": self.num_images,
            "errors": self.num_errors,
            "of unknown classes": self.unknown_classes or None,
            "embeddings": self.embeddings,
            "notes": "; ".join(self.notes) or None,
        }
        return render_fields("Scored images", fields)


@dataclass(frozen=True, slots=True)
class ScoringJob:
    """What is scored, and where the rows are written."""

    images: ImageSet
    rows: tuple[ImageItem, ...]
    folder: Path
    config: ScoreConfig
    output: Path

    def build_columns(self, classes: tuple[str, ...]) -> Columns:
        """Return the columns of the table.

        Raises:
            InvalidParameterError: `top_k` is more than the number of classes.
        """
        has_text_ids = any(isinstance(item.id, str) for item in self.rows)
        return Columns(
            classes,
            bool(self.images.classes),
            has_text_ids,
            self.config.top_k or 0,
            read_threshold(self.folder),
        )

    def list_outputs(self, columns: Columns) -> dict[str, Output]:
        """Return the outputs by the names of their files in a draft; the table is the first."""
        outputs = {_TABLE: Output(self.output, choose_format(self.output, columns))}
        if self.config.embeddings is not None:
            path = check_embeddings(self.config.embeddings, self.output)
            outputs[_EMBEDDINGS] = Output(path, EmbeddingTable())
        return outputs


def build_result(
    job: ScoringJob,
    classes: Sequence[str],
    draft: Draft,
    num_continued: int,
    notes: Iterable[str] = (),
) -> ScoreResult:
    """Return the result of a finished draft."""
    assert draft.progress is not None
    return ScoreResult(
        str(job.output),
        draft.progress.num_rows,
        draft.progress.num_errors,
        count_unknown_classes(job.images, classes),
        num_continued,
        job.config.embeddings,
        (*job.images.notes, *notes),
    )


def write_rows(
    draft: Draft, outputs: Mapping[str, Output], batches: Iterable[list[ScoredItem]]
) -> None:
    """Append rows to the draft, many at a time."""
    for rows in _collect_rows(batches):
        contents = {name: output.format.encode_rows(rows) for name, output in outputs.items()}
        num_errors = sum(bool(row.score.error) for row in rows)
        draft.append(contents, num_rows=len(rows), num_errors=num_errors)


def _collect_rows(batches: Iterable[list[ScoredItem]]) -> Iterator[list[ScoredItem]]:
    """Yield whole batches together, by `_FLUSH_ROWS` or after `_FLUSH_SECONDS`."""
    pending: list[list[ScoredItem]] = []
    flushed, num_rows = time.monotonic(), 0
    for batch in batches:
        pending.append(batch)
        num_rows += len(batch)
        if num_rows >= _FLUSH_ROWS or time.monotonic() - flushed >= _FLUSH_SECONDS:
            yield list(chain.from_iterable(pending))
            pending, num_rows, flushed = [], 0, time.monotonic()
    if pending:
        yield list(chain.from_iterable(pending))
