"""`trialrun promote`, `rollback` and `history`: commands that manage the champion of a model."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import (
    align_columns,
    print_json,
    print_message,
    print_result,
    print_status,
    print_table,
    silence_mlflow,
)
from trialrun.config.promote import CHAMPION, METRICS, PromoteConfig

if TYPE_CHECKING:
    from trialrun.registry.history import AliasHistory, AliasPeriod
    from trialrun.runs.promotion.result import Promotion

Name = Annotated[str, typer.Argument(metavar="NAME", help="Registered model.")]
Version = Annotated[str, typer.Option(help="Version to promote: a number or @alias.")]
Data = Annotated[str, typer.Option(help="Labelled test images that neither version trained on.")]
Alias = Annotated[str, typer.Option(help="Alias of the champion.")]


@app.command()
@flags_for(PromoteConfig)
def promote(
    name: Name,
    version: Version,
    data: Data,
    json: Json = False,
    **settings: Any,
) -> None:
    """Make a version of NAME the champion if it passes all gates.

    The version and the current champion score the same test images. The comparison is logged as an
    MLflow run. Exits with 5 if a gate refuses the version.
    """
    from trialrun.config import build_config
    from trialrun.runs.signals import interrupt_on_signals

    build_config(PromoteConfig, settings)  # fails before torch is imported
    with interrupt_on_signals():
        silence_mlflow()
        from trialrun.cli.progress import TerminalProgress
        from trialrun.runs.promotion.promote import promote_version

        with TerminalProgress() as progress:
            result = promote_version(name, version, data, settings, progress)
    print_line = _choose_output(result, json)
    for line in _format_gates(result):
        print_line(line)
    if json:
        print_json(result.to_json())
    result.raise_if_refused()
    outcome = "would become" if result.is_dry_run else "is now"
    print_line(f"{result.name} version {result.version} {outcome} {result.alias}")


def _choose_output(result: "Promotion", json: bool) -> Callable[[str], None]:
    """Return the function that prints the gates: a refusal goes to standard error."""
    if json:
        return print_status
    return print_message if result.refusal else print_result


def _format_gates(result: "Promotion") -> list[str]:
    champion = f"champion version {result.champion}" if result.champion else "no champion"
    heading = (
        f"{result.name} version {result.version} against {champion} "
        f"on {result.num_images} images of {result.data}"
    )
    rows = [
        ("passed" if gate.passed else "REFUSED", gate.name, gate.asked, gate.found)
        for gate in result.verdict.gates
    ]
    figures = [(metric, f"{value:.4f}") for metric, value in result.metrics.items()]
    return [
        heading,
        *align_columns([("", "gate", "required", "found"), *rows]),
        *align_columns(figures),
    ]


@app.command()
def rollback(
    name: Name,
    reason: Annotated[str, typer.Option(help="Reason for the rollback, kept in the history.")],
    alias: Alias = CHAMPION,
    json: Json = False,
) -> None:
    """Restore the previous champion of NAME."""
    silence_mlflow()
    from trialrun.runs.promotion.alias_history import roll_back_alias

    result = roll_back_alias(name, reason, alias)
    if json:
        print_json(result)
        return
    print_table(result)


@app.command()
def history(name: Name, alias: Alias = CHAMPION, json: Json = False) -> None:
    """List the champions of NAME with dates and reasons.

    Changes that other programs made to the alias since the last look are added to the history.
    """
    silence_mlflow()
    from trialrun.runs.promotion.alias_history import read_history

    alias_history = read_history(name, alias)
    if json:
        print_json(alias_history.to_json())
        return
    for line in _format_history(alias_history):
        print_result(line)
    if alias_history.unrecorded:
        print_message("The registry refuses new entries: the last rows are not written down.")


def _format_history(alias_history: "AliasHistory") -> list[str]:
    if not alias_history.periods:
        return [f"{alias_history.name} has never had a {alias_history.alias}"]
    heading = ("version", "from", "until", "by", "reason", "metrics", "run")
    return align_columns([heading, *map(_format_period, alias_history.periods)])


def _format_period(period: "AliasPeriod") -> tuple[str, ...]:
    is_promotion = period.kind == "promotion"
    kind = period.kind.replace("_", " ")
    reason = period.reason if is_promotion else f"{kind}: {period.reason}"
    metrics = ", ".join(
        f"{name} {value:.4g}" for name, value in period.figures.items() if name in METRICS
    )
    return (
        period.version or "none",
        _format_time(period.since_not_before, period.since or "unknown"),
        _format_time(period.until_not_before, period.until or "now"),
        period.user or "unknown",
        reason,
        metrics or "-",
        period.run_url or period.run_id or "-",
    )


def _format_time(not_before: str | None, not_after: str) -> str:
    return f"between {not_before} and {not_after}" if not_before else not_after
