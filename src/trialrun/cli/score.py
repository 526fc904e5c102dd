"""`trialrun score`."""

from typing import Annotated

import typer

from trialrun.cli.app import Json, Model, app
from trialrun.cli.output import quieten_mlflow, say, show, show_json


@app.command()
def score(
    model: Model,
    data: Annotated[str, typer.Argument(help="Images, labelled or not.")],
    output: Annotated[str, typer.Option(help="The table to write, .csv or .parquet.")],
    json: Json = False,
) -> None:
    """Score the images of DATA. A row an image, a probability a class."""
    from dataclasses import asdict

    from trialrun.runs.plan import check_output

    check_output(output)
    from trialrun.runs.score import score_data, told_unknown

    quieten_mlflow()
    result = score_data(model, data, output)
    for line in told_unknown(result.unknown_classes):
        say(f"Note: {line}")
    if json:
        show_json(asdict(result))
        return
    show(f"{result.num_images} images scored into {result.output}, {result.num_errors} unreadable")
