"""`trialrun reproduce`: a command that repeats a training run."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import align_columns, print_json, print_result, silence_mlflow
from trialrun.config.reproduce import ReproduceConfig

if TYPE_CHECKING:
    from trialrun.runs.inspection.reproduction import Reproduction


@app.command()
@flags_for(ReproduceConfig)
def reproduce(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="Run: a run ID, runs:/ID or models:/NAME/3.")
    ],
    json: Json = False,
    **settings: Any,
) -> None:
    """Repeat a training run and compare the metrics of each epoch.

    RUN is trained again, as a new MLflow run, with its recorded settings and data. The exit code is
    8 if the results differ.
    """
    from trialrun.config import build_config
    from trialrun.runs.signals import interrupt_on_signals

    config = build_config(ReproduceConfig, settings)
    with interrupt_on_signals():
        silence_mlflow()
        from trialrun.cli.progress import TerminalProgress
        from trialrun.runs.inspection.reproduce import reproduce_run

        with TerminalProgress() as progress:
            result = reproduce_run(run_id, config, progress)
    if json:
        print_json(result.to_json())
    else:
        for line in _format_result(result):
            print_result(line)
    result.raise_if_different()


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
