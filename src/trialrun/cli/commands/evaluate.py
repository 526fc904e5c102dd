"""`trialrun evaluate`."""

from typing import Annotated, Any

import typer

from trialrun.cli.app import Json, Model, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import aligned, quieten_mlflow, show, show_json
from trialrun.config.evaluate import EvaluateConfig


@app.command()
@flags_for(EvaluateConfig)
def evaluate(
    model: Model,
    data: Annotated[str, typer.Argument(help="Labelled images that MODEL has not seen.")],
    json: Json = False,
    **settings: Any,
) -> None:
    """Judge MODEL on the labelled images of DATA, as an MLflow run."""
    from trialrun.config import from_values
    from trialrun.runs.signals import cut_by_signals

    from_values(EvaluateConfig, settings)
    with cut_by_signals():
        quieten_mlflow()
        from trialrun.cli.progress import Terminal
        from trialrun.runs.evaluation.evaluate import evaluate as judge
        from trialrun.runs.evaluation.evaluate import figure_rows

        with Terminal() as terminal:
            result = judge(model, data, settings, terminal)
    if json:
        show_json(result.to_json())
        return
    show(f"{result.num_images} images, {result.num_unreadable} unreadable; run {result.run_id}")
    for line in aligned([("metric", "value", "interval"), *figure_rows(result)]):
        show(line)
