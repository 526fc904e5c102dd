"""`trialrun reproduce`: a command that repeats a training run."""

from typing import TYPE_CHECKING, Annotated

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.output import align_columns, print_json, print_result, silence_mlflow
from trialrun.config.reproduce import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from trialrun.runs.inspection.reproduce import Reproduction


@app.command()
def reproduce(
    run_id: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Run: a run ID, runs:/ID or models:/NAME/3."),
    ],
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="Relative difference of a metric that still counts as equal."),
    ] = DEFAULT_TOLERANCE,
    allow_changed_data: Annotated[
        bool, typer.Option("--allow-changed-data", help="Train even if the data has changed.")
    ] = False,
    json: Json = False,
) -> None:
    """Repeat a training run and compare the metrics of each epoch.

    RUN is trained again, as a new MLflow run, with its recorded settings and data.
    """
    from trialrun.runs.signals import interrupt_on_signals

    with interrupt_on_signals():
        silence_mlflow()
        from trialrun.cli.progress import TerminalProgress
        from trialrun.runs.inspection.reproduce import reproduce_run

        with TerminalProgress() as progress:
            result = reproduce_run(
                run_id,
                tolerance=tolerance,
                allow_changed_data=allow_changed_data,
                callback=progress,
            )
    if json:
        print_json(result.to_json())
        return
    for line in _format_result(result):
        print_result(line)


def _format_result(result: "Reproduction") -> list[str]:
    since = f" since epoch {result.since_epoch}" if result.since_epoch is not None else ""
    rows = [
        (
            deviation.metric,
            str(deviation.num_epochs),
            f"{deviation.largest:.3g}",
            str(deviation.first_epoch or "-"),
        )
        for deviation in result.history.deviations
    ]
    differences = [(name, str(then), str(now)) for name, (then, now) in result.differences.items()]
    return [
        *result.notes,
        f"{result.verdict}{since}; weights "
        + ("identical" if result.weights_identical else "differ")
        + f"; run {result.run_id}",
        *(f"data: {change}" for change in result.data_changes),
        *align_columns([("metric", "epochs", "largest deviation", "first in epoch"), *rows]),
        *align_columns([("differs", "then", "now"), *differences] if differences else []),
    ]
