"""`trialrun compare`."""

from typing import Annotated

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.output import quieten_mlflow, say, show, show_json
from trialrun.cli.tables import aligned


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(help="Run ids, models:/NAME/3, models:/NAME@alias or runs:/ID.")
    ],
    output: Annotated[str, typer.Option(help="The HTML page to write; none writes none.")] = (
        "compare.html"
    ),
    json: Json = False,
) -> None:
    """Show runs side by side. Parameters, metrics, curves, data and environments."""
    quieten_mlflow()
    from trialrun.config import NONE_TEXT
    from trialrun.runs.compare import compare_runs

    found = compare_runs(runs, None if output == NONE_TEXT else output)
    if json:
        show_json(found.to_json())
        return
    for section in found.sections():
        show(section.title)
        rows = [tuple(section.heading), *section.rows] if section.rows else [(section.text,)]
        for line in aligned(rows):
            show(f"  {line}")
    if found.output is not None:
        say(f"With curves in {found.output}")
