"""`trialrun data`: commands that check, convert, split and shard datasets."""

from typing import Annotated, Any

import typer

from trialrun.cli.app import Json, add_command_group
from trialrun.cli.flags import flags_for
from trialrun.cli.output import print_json, print_result, print_table
from trialrun.config.data import CheckConfig, ConvertConfig
from trialrun.config.shard import ShardConfig
from trialrun.config.split import SplitConfig

_data_app = add_command_group("data", "Check, convert, split or shard a dataset of images.")

_SOURCE_HELP = (
    "Images: a folder with one sub-folder per class, an ImageDirectory, a folder with "
    "metadata.csv, .jsonl or .parquet, shards (.tar or .parquet with images), an archive of these, "
    "a URI, or sample:digits."
)
_ROOT_HELP = f"{_SOURCE_HELP} Also a folder with these in train, val and test."
Data = Annotated[str, typer.Argument(metavar="DATA", help=_SOURCE_HELP)]
Root = Annotated[str, typer.Argument(metavar="DATA", help=_ROOT_HELP)]
Valid = Annotated[
    str | None,
    typer.Argument(
        metavar="VALID", help="Validation images, to look for images that are also in DATA."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Fail if any image cannot be read.")]
_NUM_SHOWN_FILES = 20  # skipped or warned files printed on a terminal; --json prints all


@_data_app.command("check")
@flags_for(CheckConfig)
def check_data(
    data: Root,
    valid: Valid = None,
    strict: Strict = False,
    json: Json = False,
    **settings: Any,
) -> None:
    """Count images; find bad files, duplicates and leaks.

    Decodes every image and writes nothing. Exits with 3 if the images cannot be used for training;
    a dataset without labels is not an error.
    """
    from trialrun.cli.progress import TerminalProgress
    from trialrun.config import build_config
    from trialrun.runs.datasets.check import check_datasets

    config = build_config(CheckConfig, settings)
    with TerminalProgress() as progress:
        report = check_datasets(data, valid, strict=strict, config=config, callback=progress)
    if json:
        print_json(report.to_json())
    else:
        for checked_set in report.sets:
            _print_set(checked_set.to_json())
        for note in report.notes():
            print_result(note)
        if num_repeated := report.leakage.duplicates.num_repeated:
            print_result(f"{num_repeated} images repeat another image of the same set and class")
    report.raise_for_problems()


def _print_set(values: dict[str, object]) -> None:
    from trialrun.images import make_printable

    skipped, warned = values.pop("skipped"), values.pop("warned")
    notes, classes = values.pop("notes"), values.pop("images_by_class")
    assert isinstance(skipped, dict)
    assert isinstance(warned, dict)
    assert isinstance(notes, list)
    assert isinstance(classes, dict)
    print_table(values)
    if classes:
        print_result("images  class")
    for name, count in classes.items():
        print_result(f"{count:>6}  {make_printable(name)}")
    for verdict, reasons in (("skipped", skipped), ("warned", warned)):
        for name, reason in list(reasons.items())[:_NUM_SHOWN_FILES]:
            print_result(f"{verdict} {make_printable(name)}: {reason}")
        if len(reasons) > _NUM_SHOWN_FILES:
            num_hidden = len(reasons) - _NUM_SHOWN_FILES
            print_result(f"and {num_hidden} more {verdict}; --json lists them all")
    for note in notes:
        print_result(f"note: {note}")


@_data_app.command("convert")
@flags_for(ConvertConfig)
def convert_data(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=_SOURCE_HELP)],
    out: Annotated[str, typer.Argument(metavar="OUT", help="ImageDirectory to write.")],
    json: Json = False,
    **settings: Any,
) -> None:
    """Convert a dataset to an ImageDirectory.

    Azure ML designer can read it too.
    """
    from dataclasses import asdict

    from trialrun.cli.progress import TerminalProgress
    from trialrun.config import build_config
    from trialrun.runs.datasets.convert import convert_dataset

    config = build_config(ConvertConfig, settings)
    with TerminalProgress() as progress:
        written = convert_dataset(source, out, config=config, callback=progress)
    if json:
        print_json(asdict(written))
        return
    _print_written(written.num_images, written.folder, written.num_skipped)


@_data_app.command("split")
@flags_for(SplitConfig)
def split_data(
    data: Data,
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Folder to write `train` and `valid` into.")
    ],
    json: Json = False,
    **settings: Any,
) -> None:
    """Split a labelled dataset into OUT/train and OUT/valid.

    Both are ImageDirectories with the same share of each class.
    """
    from dataclasses import asdict

    from trialrun.cli.progress import TerminalProgress
    from trialrun.config import build_config
    from trialrun.runs.datasets.split import split_dataset

    config = build_config(SplitConfig, settings)
    with TerminalProgress() as progress:
        train, valid = split_dataset(
            data,
            out,
            fraction=config.fraction,
            random_seed=config.random_seed,
            group_column=config.group_column,
            group_pattern=config.group_pattern,
            config=config,
            callback=progress,
        )
    if json:
        print_json({"train": asdict(train), "valid": asdict(valid)})
        return
    for part in (train, valid):
        _print_written(part.num_images, part.folder, part.num_skipped)


@_data_app.command("shard")
@flags_for(ShardConfig)
def shard_data(
    data: Data,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write the shards into.")],
    json: Json = False,
    **settings: Any,
) -> None:
    """Write a dataset as shards: few large files with many images each.

    Shards can be streamed from an object store. OUT has an index with all names and labels too.
    """
    from dataclasses import asdict

    from trialrun.cli.progress import TerminalProgress
    from trialrun.config import build_config
    from trialrun.runs.datasets.shard import shard_dataset

    config = build_config(ShardConfig, settings)
    with TerminalProgress() as progress:
        written = shard_dataset(data, out, config=config, callback=progress)
    if json:
        print_json(asdict(written))
        return
    _print_written(written.num_images, written.folder, written.num_skipped)
    print_result(f"{written.num_shards} shards, {written.num_bytes / 1e6:,.1f} MB")


def _print_written(num_images: int, folder: str, num_skipped: int) -> None:
    print_result(f"{num_images} images written to {folder}, {num_skipped} skipped")


@_data_app.command(
    "pack",
    hidden=True,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def reject_pack(context: typer.Context) -> None:
    """Name the commands that replaced `data pack`."""
    from trialrun.errors import InvalidParameterError

    replacements = {"--list": "`trialrun cache list`", "--clear": "`trialrun cache clear`"}
    named = [command for flag, command in replacements.items() if flag in context.args]
    raise InvalidParameterError(
        "`trialrun data pack` was renamed", f"Use {' or '.join(named or replacements.values())}."
    )
