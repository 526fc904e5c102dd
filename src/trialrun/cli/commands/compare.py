"""`trialrun compare`."""

from typing import Annotated

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.output import (
    align_columns,
    print_json,
    print_result,
    print_status,
    silence_mlflow,
)


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
    silence_mlflow()
    from trialrun.config import NONE_TEXT
    from trialrun.runs.inspection.compare import compare_runs, write_html_page

    found = compare_runs(runs)
    page = None if output == NONE_TEXT else output
    if json:
        if page:
            write_html_page(found, page)
        print_json({**found.to_json(), "output": page})
        return
    for section in found.sections():
        print_result(section.title)
        rows = [tuple(section.heading), *section.rows] if section.rows else [(section.text,)]
        for line in align_columns(rows):
            print_result(f"  {line}")
    if page:
        write_html_page(found, page)
        print_status(f"With curves in {page}")
