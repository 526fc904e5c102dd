"""`trialrun resume`: a command that continues an interrupted training run."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import (
    print_json,
    print_result,
    print_status,
    print_table,
    silence_mlflow,
)
from trialrun.cli.progress import TerminalProgress
from trialrun.cli.summary import print_training
from trialrun.config.resume import ResumeConfig
from trialrun.errors import InvalidParameterError

if TYPE_CHECKING:
    from trialrun.runs.recovery.replay import ReplayedStep


@app.command()
@flags_for(ResumeConfig)
def resume(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN_ID]", help="The interrupted run's id.")
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="Continue the newest interrupted run of the store.")
    ] = False,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="Repeat the step at which the loss was not finite, and name layer and images.",
        ),
    ] = False,
    json: Json = False,
    **settings: Any,
) -> None:
    """Continue an interrupted training run.

    The run continues in the same MLflow run, from its newest intact checkpoint and with its own
    settings. On the same processor, versions and threads its weights become bit-identical to those
    of an uninterrupted run.
    """
    from trialrun.runs.api import replay_training, resume_training

    if (run_id is None) != last:
        raise InvalidParameterError(
            "a run and --last are both given" if last else "no run is given",
            "Name one run, or give --last for the newest interrupted one.",
        )
    silence_mlflow()
    if replay:
        _print_replay(replay_training(run_id, settings, TerminalProgress), json=json)
        return
    print_training(resume_training(run_id, settings, TerminalProgress), json=json)


def _print_replay(step: "ReplayedStep", *, json: bool) -> None:
    if json:
        print_json(step.to_json())
        return
    values = {name: value for name, value in step.to_json().items() if value is not None}
    names = values.pop("images")
    print_table(values)
    if step.layer is None:
        print_status("The loss of this step is finite on this machine.")
        return
    print_status(f"Not finite at this layer: {len(names)} of {step.num_images} images")
    for name in names:
        print_result(name)
