"""Azure ML designer's ImageDirectory: images lie flat, `images.lst` says which label each has.

`_meta.yaml` names the other files; `images.lst` holds one JSON object a line; the label stands in
the column that `_schema.json` marks with an `annotation_type`. Written by *Convert to Image
Directory*, and by us.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trialrun.errors import InvalidDatasetError, InvalidParameterError
from trialrun.images.dataset import ImageItem, ImageSet, leads_out, printable

META = "_meta.yaml"
IMAGE_LIST = "images.lst"
SCHEMA = "_schema.json"
_DAMAGED_HINT = "Write the ImageDirectory again, or give the folder of images itself."


def reads(folder: Path) -> bool:
    """Whether the folder says so itself, or holds an image list."""
    if (folder / IMAGE_LIST).is_file():
        return True
    return (folder / META).is_file() and _meta(folder).get("type") == "ImageDirectory"


def read(folder: Path, source: str, group_column: str | None = None) -> ImageSet:
    """The images that the list names, labelled by the annotation column.

    Raises:
        InvalidDatasetError: A file is missing or damaged, or an image is given by address only.
        InvalidParameterError: No image has the `group_column`.
    """
    meta = _meta(folder)
    schema = _json_object(folder / str(meta.get("schema", SCHEMA)))
    column, categories = _annotation(schema)
    image_list = folder / str(meta.get("image_list", IMAGE_LIST))
    items = tuple(_items(image_list, column, group_column))
    if group_column is not None and not any(item.group for item in items):
        raise InvalidParameterError(
            f"group_column={group_column} is not in {image_list}", "Name a field of its rows."
        )
    return ImageSet(source, folder.resolve(), items, categories)


def _meta(folder: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load((folder / META).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidDatasetError(f"{folder / META} is damaged: {error}", _DAMAGED_HINT) from error
    return content if isinstance(content, dict) else {}


def _json_object(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidDatasetError(f"{path} is damaged: {error}", _DAMAGED_HINT) from error
    if not isinstance(content, dict):
        raise InvalidDatasetError(f"{path} holds no JSON object", _DAMAGED_HINT)
    return content


def _annotation(schema: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The annotation column's name and its categories' names; (None, ()) where there is none."""
    for attribute in schema.get("columnAttributes", ()):
        properties = attribute.get("properties") or {}
        if properties.get("annotation_type"):
            categories = properties.get("categories") or ()
            return attribute["name"], tuple(sorted(str(entry["name"]) for entry in categories))
    return None, ()


def _items(image_list: Path, column: str | None, group_column: str | None) -> list[ImageItem]:
    try:
        lines = image_list.read_text("utf-8").split("\n")  # names may hold other line breaks
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDatasetError(f"{image_list} cannot be read: {error}", _DAMAGED_HINT) from error
    return [
        _item(line, column, group_column, f"{image_list.name} line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _item(line: str, column: str | None, group_column: str | None, place: str) -> ImageItem:
    try:
        row = json.loads(line)
        info = row["image_info"]
        label = row.get(column) if column else None
        identifier = row.get("id")
        group = row.get(group_column) if group_column else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidDatasetError(f"{place} is no image entry: {error}", _DAMAGED_HINT) from error
    name = info.get("file_name") if isinstance(info, dict) else None
    if not name:
        raise InvalidDatasetError(
            f"{place} gives an address (coco_url) instead of a file",
            "Images are not downloaded one by one: put the files beside the list.",
        )
    if leads_out(str(name)):
        raise InvalidDatasetError(
            f"{place} leads out of the folder: {printable(name)}", _DAMAGED_HINT
        )
    label = None if label in (None, "") else str(label)
    return ImageItem(str(name), label, identifier, None if group in (None, "") else str(group))
