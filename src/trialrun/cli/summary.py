"""The closing summary of a training or a search: what came of it, and what to type next."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trialrun.cli.epoch_table import format_loss
from trialrun.cli.output import print_json, print_result, print_status
from trialrun.cli.terminal import format_duration

if TYPE_CHECKING:
    from trialrun.runs.training.outcome.result import TrainResult
    from trialrun.tuning.result import SearchResult

_METRICS = ("valid_loss", "valid_accuracy", "valid_top5_accuracy")


def print_training(result: "TrainResult", *, json: bool) -> None:
    """Print the summary of a training; with `json`, one JSON object, and the rest on stderr."""
    if result.smoke_test is not None:
        _print_smoke_test(result, result.smoke_test, json=json)
        return
    rows = {
        "best epoch": f"{result.best_epoch} of {result.stopped_epoch}",
        **_format_metrics(result.metrics),
        **_describe_model(result),
        "run_id": result.run_id,
    }
    title = f"Training finished: {_describe_stop(result)}."
    _print_summary(title, rows, json=json)
    _print_next_steps(result)
    if json:
        print_json(result.to_json())


def _print_smoke_test(result: "TrainResult", test: Mapping[str, Any], *, json: bool) -> None:
    scored = test["num_scored"]
    num_train, num_valid = test["num_train_images"], test["num_valid_images"]
    rows = {
        "data": f"{num_train} training images, {num_valid} validation images",
        "training": "1 epoch, validation, checkpoint",
        "store": f"records and model, {result.model_uri}" if scored else "not tried (offline)",
        "scoring": f"{scored} images with the model from the store" if scored else "not tried",
        "registry": f"{test['registry']} can be read; nothing is registered"
        if test["registry"] and scored
        else "not tried",
        "run_id": f"{result.run_id} (tag smoke_test)",
    }
    title = f"Smoke test passed: all steps took {format_duration(test['seconds'])}."
    _print_summary(title, rows, json=json)
    print_status("Next: the same command without --smoke")
    if json:
        print_json(result.to_json())


def print_search(result: "SearchResult", *, json: bool) -> None:
    """Print the summary of a search, as `print_training` does."""
    counts = ", ".join(
        f"{count} {state.replace('_', ' ')}" for state, count in result.num_trials.items() if count
    )
    rows = {
        "best trial": str(result.best_trial),
        **{f"  {name}": _format_value(value) for name, value in result.best_params.items()},
        "best epoch": f"{result.best_epoch} of {result.stopped_epoch}",
        **_format_metrics(result.metrics),
        **_describe_pareto(result),
        **_describe_model(result),
        "best_run_id": result.best_run_id,
        "run_id": result.run_id,
        "study": result.study,
    }
    title = f"Search finished ({_describe_search_stop(result)}): {counts}."
    _print_summary(title, rows, json=json)
    _print_next_steps(result)
    if json:
        print_json(result.to_json())


def _print_summary(title: str, rows: Mapping[str, str], *, json: bool) -> None:
    print_line: Callable[[str], None] = print_status if json else print_result
    width = max(map(len, rows))
    for line in ("", title, *(f"  {name:<{width}}  {text}" for name, text in rows.items())):
        print_line(line)


def _format_metrics(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return loss and accuracies of the best epoch, as the table of epochs shows them."""
    shown = {name: metrics[name] for name in _METRICS if name in metrics}
    return {
        name: format_loss(value) if name.endswith("loss") else f"{value:.4f}"
        for name, value in shown.items()
    }


def _describe_stop(result: "TrainResult") -> str:
    return {
        "completed": f"all {result.stopped_epoch} epochs are trained",
        "early_stop": f"no lower validation loss since epoch {result.best_epoch} (early_stop)",
        "time_budget": "max_minutes have passed (time_budget)",
    }.get(result.stop_reason, result.stop_reason)


def _describe_search_stop(result: "SearchResult") -> str:
    return {
        "completed": "all trials are done",
        "time_budget": "the timeout has passed",
        "exhausted": "the grid has no more points",
    }.get(result.search_stop_reason, result.search_stop_reason)


def _describe_model(result: "TrainResult | SearchResult") -> dict[str, str]:
    if result.model_uri is None:
        return {"model": "waits on disk for `trialrun sync`"}
    if (version := _name_version(result)) is not None:
        return {"model": version}
    return {"model": result.model_uri, "registered": "no (--register-as NAME)"}


def _describe_pareto(result: "SearchResult") -> dict[str, str]:
    if not result.pareto_trials:
        return {}
    return {"pareto trials": ", ".join(map(str, result.pareto_trials))}


def _name_version(result: "TrainResult | SearchResult") -> str | None:
    if result.model_version is None:
        return None
    return f"models:/{result.model_name}/{result.model_version}"


def _print_next_steps(result: "TrainResult | SearchResult") -> None:
    """Print commands that take the model, and the one that shows the run."""
    model = _name_version(result) or result.model_uri
    commands = ["trialrun ui"] if model else ["trialrun sync"]
    if model:
        commands = [
            f"trialrun evaluate {model} DATA",
            f"trialrun score {model} DATA --output out.csv",
            f"trialrun serve {model}",
            *commands,
        ]
    print_status("Next:")
    for command in commands:
        print_status(f" {command}")  # 80 columns with the ID of a model


def _format_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)
