"""`trialrun model`: commands that list networks and write untrained model directories."""

from typing import TYPE_CHECKING, Annotated

import typer

from trialrun.cli.app import Json, Model, ModelName, add_command_group
from trialrun.cli.output import (
    align_columns,
    print_json,
    print_result,
    print_status,
    silence_mlflow,
)

if TYPE_CHECKING:
    from trialrun.models.zoo.catalog import CatalogEntry

_model_app = add_command_group("model", "List networks or prepare one for training.")

Weights = Annotated[
    str,
    typer.Option(
        help="Initial weights: none (random), default (downloads torchvision's), a file or a "
        "trained model."
    ),
]
Pattern = Annotated[
    str, typer.Argument(metavar="PATTERN", help="Names to list, for example 'resnet*'.")
]
Timm = Annotated[bool, typer.Option("--timm", help="List timm's networks (extra timm).")]
Sha256 = Annotated[
    str | None, typer.Option("--sha256", help="SHA-256 that the model's weights must have.")
]
Experiment = Annotated[
    str | None, typer.Option(help="MLflow experiment of the run; none is MLflow's default.")
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
def list_models(pattern: Pattern = "*", timm: Timm = False, json: Json = False) -> None:
    """List the networks that can be trained.

    Their parameters, image size and published weights are shown. Parameters are counted with 1,000
    classes.
    """
    from dataclasses import asdict

    from trialrun.models.zoo.catalog import list_networks

    entries = list(list_networks(pattern, has_timm=timm))
    if json:
        print_json({"models": [asdict(entry) for entry in entries]})
        return
    if not entries:
        print_status(f"Note: no network matches {pattern}")
        return
    header = ["network", "parameters", "image size", "weights"]
    for line in align_columns([header, *(_format_entry(entry) for entry in entries)]):
        print_result(line)


def _format_entry(entry: "CatalogEntry") -> list[str]:
    millions = "" if entry.num_params is None else f"{entry.num_params / 1e6:.1f} M"
    size = "" if entry.image_size is None else str(entry.image_size)
    return [entry.name, millions, size, "default" if entry.has_weights else ""]


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


@_model_app.command("register")
def register_model(
    model: Model,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Registered model.")],
    sha256: Sha256 = None,
    experiment: Experiment = None,
    json: Json = False,
) -> None:
    """Register a trained model directory as a version of NAME.

    The directory may be Azure ML designer's. A new MLflow run holds the model.
    """
    from dataclasses import asdict

    from trialrun.runs.signals import interrupt_on_signals

    with interrupt_on_signals():
        silence_mlflow()
        from trialrun.runs.registration import register_model

        result = register_model(model, name, sha256=sha256, experiment=experiment)
    if json:
        print_json(asdict(result))
        return
    print_result(
        f"{model} registered as {result.model_name} version {result.model_version} "
        f"(run {result.run_id}); its probabilities differ by at most {result.max_difference:.1g}"
    )
