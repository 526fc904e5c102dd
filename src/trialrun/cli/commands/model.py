"""`trialrun model`: commands that list networks and write untrained model directories."""

from typing import Annotated

import typer

from trialrun.cli.app import Json, ModelName, add_command_group
from trialrun.cli.output import print_json, print_result

_model_app = add_command_group("model", "List networks or prepare one for training.")

Weights = Annotated[
    str,
    typer.Option(
        help="Initial weights: none (random), default (downloads torchvision's), a file or a "
        "trained model."
    ),
]
MemoryEfficient = Annotated[
    bool, typer.Option("--memory-efficient", help="DenseNet only: use less memory and more time.")
]
ZeroInitResidual = Annotated[
    bool,
    typer.Option(
        "--zero-init-residual", help="ResNet only: initialize each block as the identity."
    ),
]


@_model_app.command("list")
def list_models(json: Json = False) -> None:
    """List the networks that can be trained."""
    from trialrun.models import ARCHITECTURES

    if json:
        print_json({"models": list(ARCHITECTURES)})
        return
    for name in ARCHITECTURES:
        print_result(name)


@_model_app.command("init")
def init_model(
    name: ModelName,
    out: Annotated[str, typer.Argument(metavar="OUT", help="UntrainedModelDirectory to write.")],
    weights: Weights = "none",
    memory_efficient: MemoryEfficient = False,
    zero_init_residual: ZeroInitResidual = False,
    json: Json = False,
) -> None:
    """Write an untrained model directory of a network.

    `trialrun train --model OUT` trains it.
    """
    from trialrun.runs.init_model import write_untrained_model

    switches = {"memory_efficient": memory_efficient, "zero_init_residual": zero_init_residual}
    folder = write_untrained_model(name, out, weights=weights, switches=switches)
    if json:
        print_json({"model_directory": str(folder)})
        return
    print_result(f"{name} written to {folder}; train it with `trialrun train --model {folder}`")
