"""`trialrun data`: sets checked, converted and split, and the cache of decoded images."""

from typing import Annotated

import typer

from trialrun.cli.app import Json, app
from trialrun.cli.output import print_json, print_result, print_status, print_table

data_app = typer.Typer(help="Images: check, convert, split, cache.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Source = Annotated[
    str,
    typer.Argument(
        help="A folder with one sub-folder a class, an ImageDirectory, a folder with metadata.csv, "
        ".jsonl or .parquet, an archive of these, a URI, or sample:digits."
    ),
]
_SHOWN = 20  # bad files named on a terminal; --json names all


@data_app.command("check")
def check_data(
    data: Source,
    valid: Annotated[str | None, typer.Argument(help="A second set, to be kept apart.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="One bad image is an error.")] = False,
    json: Json = False,
) -> None:
    """Count images; name bad ones, duplicates and leaks. Writes nothing."""
    from trialrun.cli.progress import TerminalProgress
    from trialrun.runs.datasets.check import check_datasets as check_sets

    with TerminalProgress() as terminal:
        checked = check_sets(data, valid, strict=strict, callback=terminal)
    if json:
        print_json(checked.to_json())
    else:
        for each in checked.sets:
            _print_set(each.to_json())
        for note in checked.leakage.notes():
            print_result(note)
        if repeated := checked.leakage.duplicates.num_repeated:
            print_result(f"{repeated} images are copies of another in the same set and class")
    checked.raise_for_problems()


def _print_set(values: dict[str, object]) -> None:
    from trialrun.images import make_printable

    skipped, warned = values.pop("skipped"), values.pop("warned")
    notes, classes = values.pop("notes"), values.pop("images_by_class")
    assert isinstance(skipped, dict)
    assert isinstance(warned, dict)
    assert isinstance(notes, list)
    assert isinstance(classes, dict)
    print_table(values)
    for name, count in classes.items():
        print_result(f"  {count:>7} {make_printable(name)}")
    for word, rows in (("skipped", skipped), ("warned", warned)):
        for name, reason in list(rows.items())[:_SHOWN]:
            print_result(f"{word} {make_printable(name)}: {reason}")
        if len(rows) > _SHOWN:
            print_result(f"and {len(rows) - _SHOWN} more {word}; --json names them all")
    for note in notes:
        print_result(f"note: {note}")


@data_app.command("convert")
def convert_data(
    source: Source,
    out: Annotated[str, typer.Argument(help="The ImageDirectory to write.")],
    json: Json = False,
) -> None:
    """Write any source as an ImageDirectory. Azure ML designer's modules read it as well."""
    from dataclasses import asdict

    from trialrun.cli.progress import TerminalProgress
    from trialrun.runs.datasets.convert import convert_dataset as convert_source

    with TerminalProgress() as terminal:
        written = convert_source(source, out, callback=terminal)
    if json:
        print_json(asdict(written))
        return
    print_result(
        f"{written.num_images} images written to {written.folder}, {written.num_skipped} left out"
    )


@data_app.command("split")
def split_data(
    data: Source,
    out: Annotated[str, typer.Argument(help="The folder for train and valid.")],
    fraction: Annotated[float, typer.Option(help="Share of each class in train.")] = 0.9,
    random_seed: Annotated[int, typer.Option(help="Decides which image goes where.")] = 1,
    group_column: Annotated[
        str | None, typer.Option(help="Column whose images all go to one side.")
    ] = None,
    group_pattern: Annotated[
        str | None, typer.Option(help="Regular expression that finds the group in a name.")
    ] = None,
    json: Json = False,
) -> None:
    """Split a labelled set into OUT/train and OUT/valid. Stratified; both are ImageDirectories."""
    from dataclasses import asdict

    from trialrun.cli.progress import TerminalProgress
    from trialrun.runs.datasets.split import split_dataset as split_set

    with TerminalProgress() as terminal:
        train, valid = split_set(
            data,
            out,
            fraction=fraction,
            random_seed=random_seed,
            group_column=group_column,
            group_pattern=group_pattern,
            callback=terminal,
        )
    if json:
        print_json({"train": asdict(train), "valid": asdict(valid)})
        return
    for part in (train, valid):
        print_result(
            f"{part.num_images} images written to {part.folder}, {part.num_skipped} left out"
        )


@data_app.command("pack")
def pack(
    list_packs: Annotated[bool, typer.Option("--list", help="List what is kept.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Delete what is kept.")] = False,
    json: Json = False,
) -> None:
    """Look at the cache of decoded images, or empty it."""
    from trialrun.errors import InvalidParameterError

    if list_packs == clear:
        raise InvalidParameterError("give --list or --clear", "`trialrun data pack --list`.")
    if clear:
        _clear_cache(json)
    else:
        _list_cache(json)


def _clear_cache(json: bool) -> None:
    from dataclasses import asdict

    from trialrun.cache.location import decoded_folder
    from trialrun.image_cache.inventory import clear_cache

    cleared = clear_cache()
    if json:
        print_json({"folder": str(decoded_folder()), **asdict(cleared)})
        return
    print_result(
        f"{cleared.num_packs} packs and {cleared.num_archives} unpacked archives deleted, "
        f"{cleared.num_bytes / 1e6:.1f} MB"
    )
    if cleared.num_in_use:
        print_status(f"{cleared.num_in_use} unpacked archives stay: processes use them")
    if cleared.num_not_allowed:
        print_status(
            f"{cleared.num_not_allowed} packs or archives could not be deleted: whose are they?"
        )


def _list_cache(json: bool) -> None:
    from dataclasses import asdict

    from trialrun.cache.location import cache_folder, cache_limit_bytes, decoded_folder
    from trialrun.image_cache.inventory import list_archives, list_decoded

    packs, archives, limit_bytes = list_decoded(), list_archives(), cache_limit_bytes()
    if json:
        unpacked = [
            {"folder": str(each.folder), **asdict(each.contents), "used": each.used}
            for each in archives
        ]
        answer = {"folder": str(decoded_folder()), "limit_bytes": limit_bytes}
        print_json(answer | {"packs": [asdict(row) for row in packs], "archives": unpacked})
        return
    for pack in packs:
        images = f"{pack.num_images:>8} images of {pack.image_size} pixels"
        print_result(f"{pack.key[:12]}  {pack.num_bytes / 1e6:>9.1f} MB  {images}  {pack.source}")
    for each in archives:
        size = f"{each.contents.num_bytes / 1e6:>9.1f} MB  {each.contents.num_files:>8} files"
        print_result(f"{each.folder.name[:12]}  {size} unpacked  {each.contents.source}")
    total = sum(pack.num_bytes for pack in packs) + sum(e.contents.num_bytes for e in archives)
    print_status(
        f"{len(packs)} packs and {len(archives)} unpacked archives in {cache_folder()}, "
        f"{total / 1e9:.3g} of {limit_bytes / 1e9:g} GB"
    )
