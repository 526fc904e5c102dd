"""`trialrun resume`: a command that continues an interrupted training run."""

from typing import Annotated, Any

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.commands.train import print_training
from trialrun.cli.flags import flags_for
from trialrun.cli.output import silence_mlflow
from trialrun.cli.progress import TerminalProgress
from trialrun.config.resume import ResumeConfig
from trialrun.errors import InvalidParameterError


@app.command()
@flags_for(ResumeConfig)
def resume(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN_ID]", help="The interrupted run's id.")
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="Continue the newest interrupted run of the store.")
    ] = False,
    json: Json = False,
    **settings: Any,
) -> None:
    """Continue an interrupted training run.

    The run goes on in the same MLflow run, from its newest intact checkpoint and with its own
    settings. On the same processor, versions and threads its weights become bit-identical to those
    of an uninterrupted run.
    """
    from trialrun.runs.api import resume_training

    if (run_id is None) != last:
        raise InvalidParameterError(
            "a run and --last are both given" if last else "no run is given",
            "Name one run, or give --last for the newest interrupted one.",
        )
    silence_mlflow()
    print_training(resume_training(run_id, settings, TerminalProgress), json=json)
