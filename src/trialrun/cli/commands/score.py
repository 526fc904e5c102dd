"""`trialrun score`: a command that scores images with a model."""

from typing import Annotated, Any

import typer

from trialrun.cli.app import Json, Model, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import print_json, print_result, print_status, silence_mlflow
from trialrun.config.score import ScoreConfig

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="Images to score, labelled or unlabelled.")
]
Output = Annotated[str, typer.Option(metavar="FILE", help="Table to write, .csv or .parquet.")]


@app.command()
@flags_for(ScoreConfig)
def score(
    model: Model,
    data: Data,
    output: Output,
    json: Json = False,
    **settings: Any,
) -> None:
    """Score the images of DATA with MODEL and write a table.

    The table has one row per image and one probability column per class.
    """
    from dataclasses import asdict

    from trialrun.config import build_config
    from trialrun.runs.datasets.outputs import check_output

    build_config(ScoreConfig, settings)
    check_output(output)
    from trialrun.runs.evaluation.score import describe_unknown_classes, score_data

    silence_mlflow()
    result = score_data(model, data, output, settings)
    for line in (*result.notes, *describe_unknown_classes(result.unknown_classes)):
        print_status(f"Note: {line}")
    if json:
        print_json(asdict(result))
        return
    print_result(
        f"{result.num_images} images scored, {result.num_errors} unreadable; "
        f"table written to {result.output}"
    )
