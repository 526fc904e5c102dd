"""Fine-tuning: the settings whose `auto` depends on the initial weights, and the learning rate."""

from dataclasses import replace

from trialrun.config import AUTO_TEXT, TrainConfig, as_text
from trialrun.engine.phases import count_frozen_epochs
from trialrun.engine.range_test import RangeTest
from trialrun.files import scratch_directory
from trialrun.report.range_test import draw_range_test
from trialrun.runs.evaluation.tables import format_csv
from trialrun.tracking import TrackedRun

RESOLVED_RATE = "resolved_learning_rate"

_ARTIFACT = "learning_rate_range"
_RANDOM_HEAD, _PROBE = "random", "probe"


def resolve_fine_tuning(
    config: TrainConfig, *, are_random: bool, has_new_head: bool
) -> TrainConfig:
    """Replace `auto` except that of learning_rate; docs/finetuning.md has the measurements."""
    is_new = not are_random and has_new_head
    head_start = config.head_start
    if head_start == AUTO_TEXT:
        head_start = _PROBE if is_new else _RANDOM_HEAD
    elif not has_new_head:
        head_start = _RANDOM_HEAD
    freeze_epochs = config.freeze_epochs
    if freeze_epochs == AUTO_TEXT:
        freeze_epochs = count_default_frozen(config.epochs) if is_new else 0
    batch_norm = config.batch_norm
    if batch_norm == AUTO_TEXT:
        batch_norm = "frozen" if is_new else "batch"
    return replace(
        config, freeze_epochs=freeze_epochs, head_start=head_start, batch_norm=batch_norm
    )


def count_default_frozen(epochs: int) -> int:
    """Return the number of frozen epochs for pretrained weights and a new last layer."""
    return (3 * epochs + 4) // 5 if epochs > 1 else 0


def collect_fine_tuning_params(config: TrainConfig) -> dict[str, str]:
    """Return what `auto` was resolved to, as parameters; `config` is resolved."""
    return {
        "resolved_freeze_epochs": str(count_frozen_epochs(config)),
        "resolved_head_start": config.head_start,
        "resolved_batch_norm": config.batch_norm,
    }


def log_range_test(run: TrackedRun, found: RangeTest) -> None:
    """Log the learning rate that was found, and the curve of the test as a figure and a table."""
    run.log_params({RESOLVED_RATE: as_text(found.learning_rate)})
    names = ("learning_rate", "loss", "smoothed_loss")
    columns = (found.learning_rates, found.losses, found.smoothed_losses)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    run.log_text(f"{_ARTIFACT}.csv", format_csv(rows))
    with scratch_directory() as scratch:
        path = scratch / f"{_ARTIFACT}.png"
        path.write_bytes(
            draw_range_test(
                found.learning_rates, found.losses, found.smoothed_losses, found.learning_rate
            )
        )
        run.log_artifact(path)
