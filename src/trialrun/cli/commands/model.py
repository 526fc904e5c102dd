"""`trialrun model`: the zoo, and untrained model directories."""

from typing import Annotated

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.output import print_json, print_result

model_app = typer.Typer(help="Networks to train.", no_args_is_help=True)
app.add_typer(model_app, name="model")


@model_app.command("list")
def list_models(json: Json = False) -> None:
    """Name the networks of the zoo."""
    from trialrun.models import ARCHITECTURES

    if json:
        print_json({"models": list(ARCHITECTURES)})
        return
    for name in ARCHITECTURES:
        print_result(name)


@model_app.command("init")
def init_model(
    name: Annotated[str, typer.Argument(help="A network of `trialrun model list`.")],
    out: Annotated[str, typer.Argument(help="The UntrainedModelDirectory to write.")],
    weights: Annotated[
        str,
        typer.Option(help="none, default (torchvision's, downloaded), a file or a trained model."),
    ] = "none",
    memory_efficient: Annotated[
        bool, typer.Option("--memory-efficient", help="DenseNet: less memory, more time.")
    ] = False,
    zero_init_residual: Annotated[
        bool, typer.Option("--zero-init-residual", help="ResNet: each block starts as identity.")
    ] = False,
    json: Json = False,
) -> None:
    """Write an UntrainedModelDirectory that `train --model` takes."""
    from trialrun.runs.init_model import init_model as write

    switches = {"memory_efficient": memory_efficient, "zero_init_residual": zero_init_residual}
    folder = write(name, out, weights=weights, switches=switches)
    if json:
        print_json({"model_directory": str(folder)})
        return
    print_result(f"{name} written to {folder}; train it with `trialrun train --model {folder}`")
