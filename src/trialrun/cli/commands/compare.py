"""`trialrun compare`."""

from typing import Annotated

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.output import aligned, quieten_mlflow, say, show, show_json


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
    from trialrun.runs.inspection.compare import compare_runs, write_page

    found = compare_runs(runs)
    page = None if output == NONE_TEXT else output
    if json:
        if page:
            write_page(found, page)
        show_json({**found.to_json(), "output": page})
        return
    for section in found.sections():
        show(section.title)
        rows = [tuple(section.heading), *section.rows] if section.rows else [(section.text,)]
        for line in aligned(rows):
            show(f"  {line}")
    if page:
        write_page(found, page)
        say(f"With curves in {page}")
