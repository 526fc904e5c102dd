"""The table of epochs: a heading, and one line per epoch with aligned columns."""

import sys
from typing import TYPE_CHECKING

from trialrun.cli.terminal import format_duration, paint

if TYPE_CHECKING:
    from trialrun.engine.early_stopping import EpochStatus

_COLUMNS = ("train loss", "valid loss", "accuracy", "images/s", "time")
_WIDTHS = (10, 10, 8, 8, 8)
_GAP = "  "


def format_heading(epochs: int) -> str:
    """Return the heading of the table; accuracy is that of validation."""
    cells = [name.rjust(width) for name, width in zip(_COLUMNS, _WIDTHS, strict=True)]
    line = _GAP.join([" " * len(_format_title(epochs, epochs)), *cells])
    return paint(line, "bold", sys.stderr)


def format_epoch(status: "EpochStatus", epochs: int) -> str:
    """Return the line of an epoch; the best one so far is marked."""
    result = status.result
    cells = (
        format_loss(result.train_loss),
        format_loss(result.valid_loss),
        f"{result.validation.accuracy:.4f}",
        f"{result.train_images_per_second:.0f}",
        format_duration(result.epoch_seconds),
    )
    title = _format_title(result.epoch, epochs).ljust(len(_format_title(epochs, epochs)))
    columns = [cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True)]
    mark = [paint("best", "green", sys.stderr)] if status.is_best else []
    return _GAP.join([title, *columns, *mark])


def format_loss(loss: float) -> str:
    """Return a loss with four decimals, or with an exponent if it is large."""
    return f"{loss:.4f}" if abs(loss) < 1e5 else f"{loss:.3e}"


def _format_title(epoch: int, epochs: int) -> str:
    return f"Epoch {epoch}/{epochs}"
