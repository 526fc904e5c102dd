"""`trialrun evaluate`."""

from typing import Annotated, Any

import typer

from trialrun.cli.app import Json, Model, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import align_columns, print_json, print_result, silence_mlflow
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
    from trialrun.config import build_config
    from trialrun.runs.signals import interrupt_on_signals

    build_config(EvaluateConfig, settings)
    with interrupt_on_signals():
        silence_mlflow()
        from trialrun.cli.progress import TerminalProgress
        from trialrun.runs.evaluation.evaluate import evaluate_model as judge
        from trialrun.runs.evaluation.evaluate import format_figures

        with TerminalProgress() as terminal:
            result = judge(model, data, settings, terminal)
    if json:
        print_json(result.to_json())
        return
    print_result(
        f"{result.num_images} images, {result.num_unreadable} unreadable; run {result.run_id}"
    )
    for line in align_columns([("metric", "value", "interval"), *format_figures(result)]):
        print_result(line)
