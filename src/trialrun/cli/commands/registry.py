"""`trialrun promote`, `rollback` and `history`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import (
    align_columns,
    print_json,
    print_result,
    print_status,
    print_table,
    silence_mlflow,
)
from trialrun.config.promote import CHAMPION, METRICS, PromoteConfig

if TYPE_CHECKING:
    from trialrun.registry.history import AliasHistory, AliasPeriod
    from trialrun.runs.promotion.promote import Promotion

Name = Annotated[str, typer.Argument(help="The registered model.")]
Alias = Annotated[str, typer.Option(help="The alias that is meant.")]


@app.command()
@flags_for(PromoteConfig)
def promote(
    name: Name,
    version: Annotated[str, typer.Option(help="The version to judge: a number, or @alias.")],
    data: Annotated[str, typer.Option(help="Labelled test images that no version trained on.")],
    json: Json = False,
    **settings: Any,
) -> None:
    """Make a version of NAME champion if it passes its gates on DATA."""
    from trialrun.config import build_config
    from trialrun.runs.signals import interrupt_on_signals

    build_config(PromoteConfig, settings)
    with interrupt_on_signals():
        silence_mlflow()
        from trialrun.cli.progress import TerminalProgress
        from trialrun.runs.promotion.promote import promote_version as judge

        with TerminalProgress() as terminal:
            result = judge(name, version, data, settings, terminal)
    tell = print_result if result.promoted and not json else print_status
    for line in _format_verdict(result):
        tell(line)
    if json:
        print_json(result.to_json())
    result.raise_if_refused()
    tell(f"{result.name} version {result.version} is now {result.alias}")


def _format_verdict(result: "Promotion") -> list[str]:
    rival = f"version {result.champion}" if result.champion else "nobody"
    heading = (
        f"{result.name} version {result.version} against {rival} "
        f"on {result.num_images} images of {result.data}"
    )
    rows = [
        ("passed" if gate.passed else "REFUSED", gate.name, gate.asked, gate.found)
        for gate in result.verdict.gates
    ]
    figures = [(metric, f"{value:.4f}") for metric, value in result.metrics.items()]
    return [
        heading,
        *align_columns([("", "gate", "asked", "found"), *rows]),
        *align_columns(figures),
    ]


@app.command()
def rollback(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why; the history keeps it.")],
    alias: Alias = CHAMPION,
    json: Json = False,
) -> None:
    """Make the champion before champion of NAME again."""
    silence_mlflow()
    from trialrun.runs.promotion.alias_history import roll_back_alias as go_back

    done = go_back(name, reason, alias)
    if json:
        print_json(done)
        return
    print_table(done)


@app.command()
def history(name: Name, alias: Alias = CHAMPION, json: Json = False) -> None:
    """Show who was champion of NAME, from when to when, and why."""
    silence_mlflow()
    from trialrun.runs.promotion.alias_history import read_history as read

    found = read(name, alias)
    if json:
        print_json(found.to_json())
        return
    for line in _format_history(found):
        print_result(line)


def _format_history(found: "AliasHistory") -> list[str]:
    if not found.periods:
        return [f"{found.name} has had no {found.alias} yet"]
    heading = ("version", "from", "until", "by", "why", "figures", "run")
    return align_columns([heading, *map(_format_period, found.periods)])


def _format_period(period: "AliasPeriod") -> tuple[str, ...]:
    why = period.reason if period.kind == "promotion" else f"{period.kind}: {period.reason}"
    figures = ", ".join(
        f"{name} {value:.4g}" for name, value in period.figures.items() if name in METRICS
    )
    return (
        period.version or "none",
        period.since or "unknown",
        period.until or "now",
        period.user or "unknown",
        why,
        figures or "-",
        period.run_url or period.run_id or "-",
    )
