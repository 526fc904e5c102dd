"""Fine-tuning: settings that `auto` derives from the initial weights, and the learning rate."""

from dataclasses import replace

from trialrun.config import AUTO_TEXT, TrainConfig, as_text
from trialrun.engine.fine_tuning.range_test import RangeTest
from trialrun.engine.steps import count_frozen_epochs
from trialrun.files import scratch_directory
from trialrun.report.range_test import draw_range_test
from trialrun.runs.evaluation.tables import format_csv
from trialrun.tracking import TrackedRun

RESOLVED_RATE = "resolved_learning_rate"

_ARTIFACT = "learning_rate_range"
_CLIP_GRAD_NORM = 1.0  # without batch statistics, larger steps can destroy the pretrained layers


def resolve_fine_tuning(
    config: TrainConfig, *, are_random: bool, has_new_head: bool
) -> TrainConfig:
    """Replace `auto` except that of learning_rate; docs/finetuning.md has the measurements."""
    is_new = not are_random and has_new_head
    defaults: dict[str, object] = {
        "freeze_epochs": count_default_frozen(config.epochs) if is_new else 0,
        "head_start": "probe" if is_new else "random",
        "batch_norm": "frozen" if is_new else "batch",
        "clip_grad_norm": _CLIP_GRAD_NORM if is_new else None,
    }
    chosen = {name: value for name, value in defaults.items() if getattr(config, name) == AUTO_TEXT}
    if not has_new_head:
        chosen["head_start"] = "random"
    return replace(config, **chosen)  # type: ignore[arg-type]  # names of different types


def count_default_frozen(epochs: int) -> int:
    """Return the number of frozen epochs for pretrained weights and a new last layer."""
    return (3 * epochs + 4) // 5 if epochs > 1 else 0


def collect_fine_tuning_params(config: TrainConfig) -> dict[str, str]:
    """Return what `auto` was resolved to, as parameters; `config` is resolved."""
    return {
        "resolved_freeze_epochs": str(count_frozen_epochs(config)),
        "resolved_head_start": config.head_start,
        "resolved_batch_norm": config.batch_norm,
        "resolved_clip_grad_norm": as_text(config.clip_grad_norm),
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
