"""`trialrun compare`: a command that compares runs."""

from typing import Annotated, Any

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import (
    align_columns,
    print_json,
    print_result,
    print_status,
    silence_mlflow,
)
from trialrun.config.evaluate import CompareConfig

Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN", help="Run: a run ID, runs:/ID, models:/NAME/3 or models:/NAME@alias."
    ),
]


@app.command()
@flags_for(CompareConfig)
def compare(
    runs: Runs,
    output: Annotated[
        str, typer.Option(metavar="FILE", help="HTML page to write; none writes no page.")
    ] = "compare.html",
    json: Json = False,
    **settings: Any,
) -> None:
    """Compare the parameters, metrics and data of several runs.

    Also compares their environments, and writes an HTML page with the metric curves.
    """
    silence_mlflow()
    from trialrun.config import NONE_TEXT
    from trialrun.runs.inspection.compare import compare_runs, write_html_page

    comparison = compare_runs(runs, settings)
    page = None if output == NONE_TEXT else output
    if json:
        if page:
            write_html_page(comparison, page)
        print_json({**comparison.to_json(), "output": page})
        return
    for section in comparison.sections():
        print_result(section.title)
        rows = [tuple(section.heading), *section.rows] if section.rows else [(section.text,)]
        for line in align_columns(rows, indent=2):
            print_result(line)
    if page:
        write_html_page(comparison, page)
        print_status(f"Comparison with curves written to {page}")
