"""`trialrun score`."""

from typing import Annotated, Any

import typer

from trialrun.cli.app import Json, Model, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import quieten_mlflow, say, show, show_json
from trialrun.config.score import ScoreConfig


@app.command()
@flags_for(ScoreConfig)
def score(
    model: Model,
    data: Annotated[str, typer.Argument(help="Images, labelled or not.")],
    output: Annotated[str, typer.Option(help="The table to write, .csv or .parquet.")],
    json: Json = False,
    **settings: Any,
) -> None:
    """Score the images of DATA. A row an image, a probability a class."""
    from dataclasses import asdict

    from trialrun.config import from_values
    from trialrun.runs.datasets.outputs import check_output

    from_values(ScoreConfig, settings)
    check_output(output)
    from trialrun.runs.evaluation.score import score_data, told_unknown

    quieten_mlflow()
    result = score_data(model, data, output, settings)
    for line in told_unknown(result.unknown_classes):
        say(f"Note: {line}")
    if json:
        show_json(asdict(result))
        return
    show(f"{result.num_images} images scored into {result.output}, {result.num_errors} unreadable")
