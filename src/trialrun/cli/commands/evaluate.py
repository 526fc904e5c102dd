"""`trialrun evaluate`: a command that evaluates a model on labelled images."""

from typing import Annotated, Any

import typer

from trialrun.cli.app import Json, Model, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import align_columns, print_json, print_result, silence_mlflow
from trialrun.config.evaluate import EvaluateConfig

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="Labelled images that MODEL was not trained on.")
]


@app.command()
@flags_for(EvaluateConfig)
def evaluate(
    model: Model,
    data: Data,
    json: Json = False,
    **settings: Any,
) -> None:
    """Evaluate MODEL on the labelled images of DATA.

    Metrics, a confusion matrix and all predictions are logged as an MLflow run.
    """
    from trialrun.config import build_config
    from trialrun.runs.signals import interrupt_on_signals

    build_config(EvaluateConfig, settings)  # fails before torch is imported
    with interrupt_on_signals():
        silence_mlflow()
        from trialrun.cli.progress import TerminalProgress
        from trialrun.report.abstention import describe_rule
        from trialrun.runs.evaluation.evaluate import (
            describe_size,
            evaluate_model,
            format_figures,
        )

        with TerminalProgress() as progress:
            result = evaluate_model(model, data, settings, progress)
    if json:
        print_json(result.to_json())
        return
    print_result(f"{describe_size(result)}; run {result.run_id}")
    for line in align_columns([("metric", "value", "interval"), *format_figures(result)]):
        print_result(line)
    if result.answer_rule is not None:
        version = f"{result.model_name} version {result.model_version}"
        print_result(f"{version} {describe_rule(result.answer_rule)}")
