"""The contents of the parent run: trial table, plots, best trial and description."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trialrun.config import as_text
from trialrun.files import scratch_directory
from trialrun.report.markdown import escape_markdown
from trialrun.runs.evaluation.tables import format_csv
from trialrun.tracking import TrackedRun
from trialrun.tuning.callbacks import SearchCallback
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.reporting.plots import draw_plots
from trialrun.tuning.reporting.progress import log_progress
from trialrun.tuning.reporting.seed_replicates import NoiseFloor
from trialrun.tuning.study import attrs
from trialrun.tuning.study.trials import sort_by_objective

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_MAX_CARD_TRIALS = 10
_REASON_ATTRS = (attrs.ERROR, attrs.INTERRUPTED, attrs.IMPOSSIBLE)


def count_by_state(trials: Sequence["FrozenTrial"]) -> dict[str, int]:
    """Count trials by outcome; `lost` ones were interrupted or lost, and retried if allowed."""
    from optuna.trial import TrialState

    names = ("complete", "pruned", "failed", "does_not_fit", "impossible", "lost", "waiting")
    counts = Counter(dict.fromkeys(names, 0))
    for trial in trials:
        if trial.state == TrialState.FAIL:
            counts["failed" if attrs.ERROR in trial.user_attrs else "lost"] += 1
        elif attrs.OUT_OF_MEMORY in trial.user_attrs:
            counts["does_not_fit"] += 1
        elif attrs.IMPOSSIBLE in trial.user_attrs:
            counts["impossible"] += 1
        else:
            counts[trial.state.name.lower()] += 1
    return dict(counts)


def log_trials(run: TrackedRun, trials: Sequence["FrozenTrial"], plan: SearchPlan) -> None:
    """Log `trials.csv` with one row per trial."""
    rows = [_make_row(trial, plan) for trial in trials]
    run.log_text("trials.csv", format_csv(rows))


def _make_row(trial: "FrozenTrial", plan: SearchPlan) -> dict[str, Any]:
    attributes = trial.user_attrs
    values = trial.values or [None] * len(plan.objectives)
    row: dict[str, Any] = {"number": trial.number, "state": trial.state.name.lower()}
    row |= {
        objective.metric: value for objective, value in zip(plan.objectives, values, strict=False)
    }
    row |= {name: trial.params.get(name) for name in plan.space.dimensions}
    duration = trial.duration
    return row | {
        "seconds": duration.total_seconds() if duration else None,
        "epochs": trial.last_step,
        "retry_of": trial.system_attrs.get(attrs.RETRY_OF),
        "seed_number": attributes.get(attrs.SEED_NUMBER),
        "run_id": attributes.get(attrs.RUN_ID),
        "model_uri": attributes.get(attrs.MODEL_URI),
        "reason": next((attributes[name] for name in _REASON_ATTRS if attributes.get(name)), ""),
    }


def log_plots(run: TrackedRun, study: "Study", plan: SearchPlan, callback: SearchCallback) -> None:
    """Log Optuna's plots as PNG files in `plots`."""
    with scratch_directory() as scratch:
        for path, reason in draw_plots(study, plan, scratch):
            if path is None:
                callback.on_note(reason)
            else:
                run.log_artifact(path, "plots")


def log_best(
    run: TrackedRun,
    best: "FrozenTrial",
    trials: Sequence["FrozenTrial"],
    plan: SearchPlan,
    noise_floor: NoiseFloor | None,
) -> None:
    """Log the best trial as tags and `best.json`, the metrics of all trials, and the card.

    Its settings are a tag, not parameters: a resumed study may find better ones.
    """
    result = best.user_attrs[attrs.RESULT]
    summary = {
        "best_trial": best.number,
        "best_run_id": result["run_id"],
        "weights_sha256": result["weights_sha256"],
    }
    tags = {name: as_text(value) for name, value in summary.items()}
    tags |= {"best_settings": _format_settings(best), "trials": _format_counts(trials)}
    if noise_floor:
        tags |= noise_floor.tags()
    run.set_tags({**tags, "mlflow.note.content": _format_card(best, trials, plan, noise_floor)})
    log_progress(run, trials, plan.objectives)
    details = {
        **summary,
        "best_epoch": result["best_epoch"],
        "best_valid_loss": result["best_valid_loss"],
        "settings": best.params,
        "metrics": result["metrics"],
        "noise_floor": noise_floor.to_dict() if noise_floor else None,
    }
    run.log_text("best.json", json.dumps(details, indent=2) + "\n")


def _format_settings(trial: "FrozenTrial") -> str:
    return ", ".join(f"{name}={as_text(value)}" for name, value in trial.params.items())


def _format_counts(trials: Sequence["FrozenTrial"]) -> str:
    counts = count_by_state(trials).items()
    return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts if count)


def _format_card(
    best: "FrozenTrial",
    trials: Sequence["FrozenTrial"],
    plan: SearchPlan,
    noise_floor: NoiseFloor | None,
) -> str:
    """Return the card in Markdown: the search space, the counts and the best trials."""
    names = list(plan.space.dimensions)
    columns = ["trial", *(objective.metric for objective in plan.objectives), *names]
    space = ", ".join(f"{name} {text}" for name, text in plan.space.texts().items())
    lines = [
        f"## Search of {plan.base.config.model} on {plan.base.train.source}",
        "",
        f"Trial **{best.number}** is the best of {len(trials)} ({_format_counts(trials)}); "
        f"search space: {space}.",
        "",
        *([noise_floor.text(), ""] if noise_floor else []),
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
    ]
    for trial in sort_by_objective(trials, plan.objectives)[:_MAX_CARD_TRIALS]:
        cells = [str(trial.number), *(f"{value:.4g}" for value in trial.values)]
        cells += [_shorten_value(trial.params.get(name)) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shorten_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape_markdown(as_text(value))
