"""`trialrun promote`, `rollback` and `history`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import aligned, quieten_mlflow, say, show, show_json, show_table
from trialrun.config.promote import CHAMPION, METRICS, PromoteConfig

if TYPE_CHECKING:
    from trialrun.runs.promotion.alias_history import History, Reign
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
    from trialrun.config import from_values
    from trialrun.runs.signals import cut_by_signals

    from_values(PromoteConfig, settings)
    with cut_by_signals():
        quieten_mlflow()
        from trialrun.cli.progress import Terminal
        from trialrun.runs.promotion.promote import promote as judge

        with Terminal() as terminal:
            result = judge(name, version, data, settings, terminal)
    tell = show if result.promoted and not json else say
    for line in _verdict_lines(result):
        tell(line)
    if json:
        show_json(result.to_json())
    result.check()
    tell(f"{result.name} version {result.version} is now {result.alias}")


def _verdict_lines(result: "Promotion") -> list[str]:
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
    return [heading, *aligned([("", "gate", "asked", "found"), *rows]), *aligned(figures)]


@app.command()
def rollback(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why; the history keeps it.")],
    alias: Alias = CHAMPION,
    json: Json = False,
) -> None:
    """Make the champion before champion of NAME again."""
    quieten_mlflow()
    from trialrun.runs.promotion.alias_history import rollback as go_back

    done = go_back(name, reason, alias)
    if json:
        show_json(done)
        return
    show_table(done)


@app.command()
def history(name: Name, alias: Alias = CHAMPION, json: Json = False) -> None:
    """Show who was champion of NAME, from when to when, and why."""
    quieten_mlflow()
    from trialrun.runs.promotion.alias_history import history as read

    found = read(name, alias)
    if json:
        show_json(asdict(found))
        return
    for line in _history_lines(found):
        show(line)


def _history_lines(found: "History") -> list[str]:
    if not found.reigns:
        return [f"{found.name} has had no {found.alias} yet"]
    heading = ("version", "from", "until", "by", "why", "figures", "run")
    return aligned([heading, *map(_history_row, found.reigns)])


def _history_row(reign: "Reign") -> tuple[str, ...]:
    why = reign.reason if reign.kind == "promotion" else f"{reign.kind}: {reign.reason}"
    figures = ", ".join(
        f"{name} {value:.4g}" for name, value in reign.figures.items() if name in METRICS
    )
    return (
        reign.version or "none",
        reign.since or "unknown",
        reign.until or "now",
        reign.user or "unknown",
        why,
        figures or "-",
        reign.run_url or reign.run_id or "-",
    )
