"""The commands. Torch and MLflow are imported inside them, so that --help answers at once."""

from typing import Annotated, Any

import typer

from trialrun.cli.flags import flags_for
from trialrun.cli.output import quieten_mlflow, show, show_json, show_table
from trialrun.config import TrainConfig

app = typer.Typer(
    name="trialrun",
    help="Train PyTorch image classifiers as MLflow runs; --debug shows where an error came from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
model_app = typer.Typer(help="Networks to train.", no_args_is_help=True)
app.add_typer(model_app, name="model")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Model = Annotated[
    str,
    typer.Argument(help="models:/NAME/3, models:/NAME@alias, runs:/ID/model, or a ModelDirectory."),
]


@app.command()
@flags_for(TrainConfig)
def train(json: Json = False, **settings: Any) -> None:
    """Train a classifier on labelled images and record the run in MLflow."""
    from trialrun.runs.plan import plan_training
    from trialrun.runs.signals import cut_by_signals

    plan = plan_training(settings)
    with cut_by_signals():
        quieten_mlflow()
        from trialrun.cli.progress import Terminal
        from trialrun.runs.train import train as train_plan

        with Terminal() as terminal:
            result = train_plan(plan, terminal)
    values = result.to_json()
    if json:
        show_json(values)
        return
    metrics = {name: f"{value:.6g}" for name, value in values.pop("metrics").items()}
    show_table({**values, **metrics})


@app.command()
def score(
    model: Model,
    data: Annotated[str, typer.Argument(help="Images, labelled or not.")],
    output: Annotated[str, typer.Option(help="The table to write, .csv or .parquet.")],
    json: Json = False,
) -> None:
    """Score every image of DATA with MODEL: a row an image, a probability a class."""
    from dataclasses import asdict

    from trialrun.runs.plan import check_output

    check_output(output)
    from trialrun.runs.score import score_data

    result = score_data(model, data, output)
    if json:
        show_json(asdict(result))
        return
    show(f"{result.num_images} images scored into {result.output}, {result.num_errors} unreadable")


@model_app.command("list")
def list_models(json: Json = False) -> None:
    """Name the networks of the zoo."""
    from trialrun.models import ARCHITECTURES

    if json:
        show_json({"models": list(ARCHITECTURES)})
        return
    for name in ARCHITECTURES:
        show(name)


@model_app.command("init")
def init_model(
    name: Annotated[str, typer.Argument(help="A network of `trialrun model list`.")],
    out: Annotated[str, typer.Argument(help="The UntrainedModelDirectory to write.")],
    weights: Annotated[
        str, typer.Option(help="none, default (torchvision's, downloaded) or a file.")
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
        show_json({"model_directory": str(folder)})
        return
    show(f"{name} written to {folder}; train it with `trialrun train --model {folder}`")
