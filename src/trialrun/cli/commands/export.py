"""`trialrun export` and `bench`: commands for files and engines that compute a model faster."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trialrun.cli.app import Json, Model, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import (
    align_columns,
    print_json,
    print_message,
    print_result,
    print_status,
    silence_mlflow,
)
from trialrun.config.export import ExportConfig

if TYPE_CHECKING:
    from trialrun.runs.export.candidates import EngineSpeed
    from trialrun.runs.export.certify import Certification

Out = Annotated[str | None, typer.Argument(metavar="[OUT]", help="File to write, .onnx or .pt2.")]
_HEADING = ("engine", "images/s", "one by one", "speed-up", "flips")


@app.command()
@flags_for(ExportConfig)
def export(
    model: Model,
    out: Out = None,
    json: Json = False,
    **settings: Any,
) -> None:
    """Write MODEL as a file, or certify a faster engine.

    With OUT: an ONNX or pt2 file that computes probabilities of uint8 pixels. With --engine: the
    fastest engine that predicts the images of --test as well as torch in fp32 becomes a version.
    Exits with 4 if a file differs from torch, with 5 if no engine passes.
    """
    from trialrun.config import build_config
    from trialrun.errors import InvalidParameterError

    config = build_config(ExportConfig, settings)
    if (out is None) == (config.engine is None):
        raise InvalidParameterError(
            "an export needs either a file OUT or --engine", "Give one of the two."
        )
    silence_mlflow()
    if out is not None:
        _write_file(model, out, config, json)
    else:
        _certify(model, config, json)


def _write_file(model: str, out: str, config: ExportConfig, json: bool) -> None:
    from dataclasses import asdict

    from trialrun.runs.export.files import choose_format, export_model

    choose_format(out, config)
    result = export_model(model, out, config)
    if json:
        print_json(asdict(result))
        return
    print_result(
        f"{result.output} written; probabilities of {result.num_parity_images} images differ by at "
        f"most {result.parity_max_difference:.2g} from torch's"
    )


def _certify(model: str, config: ExportConfig, json: bool) -> None:
    from trialrun.cli.progress import TerminalProgress
    from trialrun.runs.export.certify import certify_engine
    from trialrun.runs.signals import interrupt_on_signals

    with interrupt_on_signals(), TerminalProgress() as progress:
        result = certify_engine(model, config, progress)
    print_line = print_status if json else print_result if result.chosen else print_message
    for line in _format_engines(result):
        print_line(line)
    if json:
        print_json(result.to_json())
    result.raise_if_refused()
    print_line(f"{result.model_name} version {result.model_version} uses {result.chosen}")


def _format_engines(result: "Certification") -> list[str]:
    rows = [
        (
            row.engine,
            *_format_speed(row.speed),
            "-" if row.judgement is None else f"{row.judgement.flips} of {result.num_images}",
            row.problem or "passed",
        )
        for row in result.rows
    ]
    return align_columns([(*_HEADING, "outcome"), *rows])


def _format_speed(speed: "EngineSpeed | None") -> tuple[str, str, str]:
    if speed is None:
        return "-", "-", "-"
    return (
        f"{speed.images_per_second:.4g}",
        f"{speed.single_images_per_second:.4g}",
        f"{speed.speedup:.3g}",
    )


@app.command()
def bench(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(help="Images to time and compare; int8 is calibrated on them, too."),
    ] = None,
    num_images: Annotated[int, typer.Option(help="How many images of --data to use.")] = 200,
    json: Json = False,
) -> None:
    """Compare the speed of MODEL's engines on this machine.

    Flips are images that an engine assigns to another class than torch in fp32. Speeds are of
    batches of 16 images, without decoding.
    """
    silence_mlflow()
    from trialrun.runs.export.bench import bench_model

    result = bench_model(model, data, num_images, print_status)
    if json:
        engines = [row.to_json() for row in result.rows]
        print_json({"num_images": result.num_images, "engines": engines})
        return
    rows = [
        (
            row.engine,
            *_format_speed(row.speed),
            row.problem if row.flips is None else f"{row.flips} of {result.num_images}",
        )
        for row in result.rows
    ]
    for line in align_columns([_HEADING, *rows]):
        print_result(line)
