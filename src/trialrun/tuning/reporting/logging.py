"""What a search writes into its parent run: the trials' table, the pictures, the best, the card."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trialrun.config import as_text
from trialrun.files import scratch_directory
from trialrun.runs.evaluation.tables import format_csv
from trialrun.tracking import TrackedRun
from trialrun.tuning.callbacks import SearchCallback
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.reporting.plots import draw_plots
from trialrun.tuning.reporting.seed_replicates import NoiseFloor
from trialrun.tuning.study import trial_queue as kept
from trialrun.tuning.study.trial_queue import sort_by_objective

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_SHOWN_TRIALS = 10
_REASONS = (kept.ERROR, kept.CUT, kept.IMPOSSIBLE)


def count_by_state(trials: Sequence["FrozenTrial"]) -> dict[str, int]:
    """How many trials came to what; one lost or cut is counted where it was begun again."""
    from optuna.trial import TrialState

    names = ("complete", "pruned", "failed", "does_not_fit", "impossible", "lost", "waiting")
    counts = Counter(dict.fromkeys(names, 0))
    for trial in trials:
        if trial.state == TrialState.FAIL:
            counts["failed" if kept.ERROR in trial.user_attrs else "lost"] += 1
        elif kept.INFEASIBLE in trial.user_attrs:
            counts["does_not_fit"] += 1
        elif kept.IMPOSSIBLE in trial.user_attrs:
            counts["impossible"] += 1
        else:
            counts[trial.state.name.lower()] += 1
    return dict(counts)


def log_trials(run: TrackedRun, trials: Sequence["FrozenTrial"], plan: SearchPlan) -> None:
    """Every trial, a row each, as `trials.csv`."""
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
        "retry_of": trial.system_attrs.get(kept.RETRY_OF),
        "seed_number": attributes.get(kept.SEED_NUMBER),
        "run_id": attributes.get(kept.RUN_ID),
        "model_uri": attributes.get(kept.MODEL_URI),
        "reason": next((attributes[name] for name in _REASONS if attributes.get(name)), ""),
    }


def log_plots(run: TrackedRun, study: "Study", plan: SearchPlan, callback: SearchCallback) -> None:
    """Optuna's pictures, as PNG in `plots`."""
    with scratch_directory() as scratch:
        for path, reason in draw_plots(study, plan, scratch):
            if path is None:
                callback.note(reason)
            else:
                run.log_artifact(path, "plots")


def log_best(
    run: TrackedRun,
    best: "FrozenTrial",
    trials: Sequence["FrozenTrial"],
    plan: SearchPlan,
    floor: NoiseFloor | None,
) -> None:
    """The best trial in tags, metrics and `best.json`, and the card.

    Its settings are tags and not parameters: a study that goes on may find better ones.
    """
    result = best.user_attrs[kept.RESULT]
    counts = count_by_state(trials)
    facts = {
        "best_trial": best.number,
        "best_run_id": result["run_id"],
        "weights_sha256": result["weights_sha256"],
        "best_epoch": result["best_epoch"],
        "best_valid_loss": result["best_valid_loss"],
    }
    tags = {name: as_text(value) for name, value in facts.items()}
    tags |= {f"best.{name}": as_text(value) for name, value in best.params.items()}
    tags |= {f"trials.{state}": str(count) for state, count in counts.items()}
    if floor:
        tags |= floor.tags()
    run.set_tags({**tags, "mlflow.note.content": _format_card(best, trials, plan, floor)})
    run.log_metrics(result["metrics"], step=len(trials))
    run.log_text("best.json", json.dumps({**facts, "settings": best.params}, indent=2) + "\n")


def _format_card(
    best: "FrozenTrial",
    trials: Sequence["FrozenTrial"],
    plan: SearchPlan,
    floor: NoiseFloor | None,
) -> str:
    """Markdown: what was searched, what is best and by how much."""
    counts = ", ".join(
        f"{count} {state}" for state, count in count_by_state(trials).items() if count
    )
    names = list(plan.space.dimensions)
    heads = ["trial", *(objective.metric for objective in plan.objectives), *names]
    searched = ", ".join(f"{name} {text}" for name, text in plan.space.texts().items())
    lines = [
        f"## Search of {plan.base.config.model} on {plan.base.train.source}",
        "",
        f"Trial **{best.number}** is the best of {len(trials)} ({counts}); searched: {searched}.",
        "",
        *([floor.text(), ""] if floor else []),
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
    ]
    for trial in sort_by_objective(trials, plan.objectives)[:_SHOWN_TRIALS]:
        cells = [str(trial.number), *(f"{value:.4g}" for value in trial.values)]
        cells += [_shorten_value(trial.params.get(name)) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shorten_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)
