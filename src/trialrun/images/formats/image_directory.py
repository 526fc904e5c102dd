"""Reader of Azure ML designer's ImageDirectory, as *Convert to Image Directory* writes it.

`_meta.yaml` names the other files. `images.lst` has one JSON object per image and line; the label
is in the column that `_schema.json` marks with an `annotation_type`.
"""

import json
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.errors import InvalidDatasetError, InvalidParameterError, summarize_error
from trialrun.images.dataset import ImageItem, ImageSet, is_encodable, leaves_root, make_printable
from trialrun.images.formats.unlisted import describe_unlisted
from trialrun.images.labels.several import SEVERAL_LABELS_HINT

META = "_meta.yaml"
_IMAGE_LIST = "images.lst"
_SCHEMA = "_schema.json"
LIST_SUFFIXES: tuple[str, ...] = tuple(
    PurePath(name).suffix for name in (_IMAGE_LIST, _SCHEMA, META)
)

_MAX_SHOWN = 80  # characters of an invalid name in an error message
_DAMAGED_HINT = "Write the ImageDirectory again, or give the folder of images itself."


def can_read(folder: Path) -> bool:
    """Whether the folder has an image list, or its `_meta.yaml` has the type ImageDirectory."""
    if (folder / _IMAGE_LIST).is_file():
        return True
    return (folder / META).is_file() and _read_meta(folder).get("type") == "ImageDirectory"


def read_images(
    folder: Path,
    source: str,
    group_column: str | None = None,
    *,
    config: DataConfig = DEFAULT_DATA_CONFIG,
) -> ImageSet:
    """Read the images in the image list, labelled by the annotation column.

    Raises:
        InvalidDatasetError: A file is missing or damaged, an image is listed twice or by URL only,
            or has several labels.
        InvalidParameterError: No image has a column that a setting names.
    """
    if config.file_column is not None:
        raise InvalidParameterError(
            f"file_column={config.file_column}: {source} is an ImageDirectory",
            "Leave file_column at none: its names are in image_info.",
        )
    meta = _read_meta(folder)
    column, categories = _find_labels(folder, meta, config)
    image_list = _find_file(folder, meta, "image_list", _IMAGE_LIST)
    items = _read_items(_read_lines(folder, image_list), image_list.name, column, group_column)
    for setting, name, has_values in (
        ("group_column", group_column, any(item.group for item in items)),
        ("label_column", config.label_column, any(item.label for item in items)),
    ):
        if name is not None and not has_values:
            raise InvalidParameterError(
                f"{setting}={name} is not in {image_list}", "Name a field of its lines."
            )
    root, names = folder.resolve(), (item.name for item in items)
    notes = describe_unlisted(folder, names, image_list.name, follow_links=config.follow_links)
    return ImageSet(source, root, tuple(items), categories, notes, follow_links=config.follow_links)


def read_columns(folder: Path, config: DataConfig) -> dict[str, dict[str, Any]]:
    """Return the fields of each image besides its name, label and id, by image name."""
    meta = _read_meta(folder)
    column, _ = _find_labels(folder, meta, config)
    image_list = _find_file(folder, meta, "image_list", _IMAGE_LIST)
    rows = [json.loads(line) for line in _read_lines(folder, image_list) if line.strip()]
    return {
        posixpath.normpath(row["image_info"]["file_name"]): {
            key: value for key, value in row.items() if key not in ("image_info", "id", column)
        }
        for row in rows
    }


def _find_labels(
    folder: Path, meta: Mapping[str, Any], config: DataConfig
) -> tuple[str | None, tuple[str, ...]]:
    """Return the name of the label column and its categories; (None, ()) without one."""
    if config.label_column is not None:
        return config.label_column, ()
    path = _find_file(folder, meta, "schema", _SCHEMA)
    return _find_annotation(_read_schema(folder, path), path)


def _read_meta(folder: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(_read_text(folder, folder / META))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _damage_error(folder / META, error) from error
    return content if isinstance(content, dict) else {}


def _find_file(folder: Path, meta: Mapping[str, Any], key: str, default: str) -> Path:
    """Return the path of the file that `_meta.yaml` names under `key`."""
    name = meta.get(key, default)
    if not isinstance(name, str) or not name or leaves_root(name) or not is_encodable(name):
        shown = ascii(name[:_MAX_SHOWN]) if isinstance(name, str) else f"a {type(name).__name__}"
        raise InvalidDatasetError(
            f"{folder / META}: {key} is {shown}, not a file in the folder", _DAMAGED_HINT
        )
    return folder / name


def _read_text(folder: Path, path: Path) -> str:
    """Read a regular UTF-8 file inside `folder`.

    Raises:
        OSError: The file is missing, a pipe, a device, or a link that leads out of the folder.
        ValueError: The content is not UTF-8.
    """
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise OSError("a link that leads out of the folder")
    if real.exists() and not real.is_file():
        raise OSError("not a regular file but a folder, pipe or device")
    return real.read_text("utf-8")


def _read_schema(folder: Path, path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(_read_text(folder, path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _damage_error(path, error) from error
    if not isinstance(content, dict):
        raise InvalidDatasetError(f"{path} is not a JSON object", _DAMAGED_HINT)
    return content


def _damage_error(path: Path, error: Exception) -> InvalidDatasetError:
    return InvalidDatasetError(f"{path} is damaged: {summarize_error(error)}", _DAMAGED_HINT)


def _find_annotation(schema: Mapping[str, Any], path: Path) -> tuple[str | None, tuple[str, ...]]:
    """Return the annotation column's name and its categories; (None, ()) without one."""
    try:
        for attribute in schema.get("columnAttributes", ()):
            properties = attribute.get("properties") or {}
            if properties.get("annotation_type"):
                names = [str(entry["name"]) for entry in properties.get("categories") or ()]
                if not all(map(is_encodable, [attribute["name"], *names])):
                    raise ValueError("a name that UTF-8 cannot encode")
                return attribute["name"], tuple(sorted(names))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damage_error(path, error) from error
    return None, ()


def _read_lines(folder: Path, image_list: Path) -> list[str]:
    try:
        return _read_text(folder, image_list).split("\n")  # names may contain other line breaks
    except (OSError, ValueError) as error:
        raise InvalidDatasetError(
            f"{image_list} cannot be read: {summarize_error(error)}", _DAMAGED_HINT
        ) from error


def _read_items(
    lines: Iterable[str], list_name: str, column: str | None, group_column: str | None
) -> list[ImageItem]:
    items: dict[str, ImageItem] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        location = f"{list_name} line {number}"
        item = _read_item(line, column, group_column, location)
        if items.setdefault(item.name, item) is not item:
            raise InvalidDatasetError(
                f"{location} lists {make_printable(item.name)} again", "List each image once."
            )
    return list(items.values())


def _read_item(line: str, column: str | None, group_column: str | None, location: str) -> ImageItem:
    try:
        row = json.loads(line)
        info = row["image_info"]
        if column and isinstance(row.get(column), dict | list):
            raise InvalidDatasetError(
                f"{location} has a list instead of a label: several labels per image",
                SEVERAL_LABELS_HINT,
            )
        label = _value_to_text(row.get(column)) if column else None
        group = _value_to_text(row.get(group_column)) if group_column else None
        name = _read_name(info, location)
        identifier = row.get("id")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidDatasetError(
            f"{location} is not an image entry: {summarize_error(error)}", _DAMAGED_HINT
        ) from error
    if identifier is not None and not isinstance(identifier, int | str):
        identifier = str(identifier)
    return ImageItem(name, label, identifier, group)


def _read_name(info: object, location: str) -> str:
    name = info.get("file_name") if isinstance(info, dict) else None
    if not name:
        raise InvalidDatasetError(
            f"{location} gives an address (coco_url) instead of a file",
            "Images are not downloaded: put the files beside the list.",
        )
    if not isinstance(name, str) or not is_encodable(name):
        raise ValueError("file_name is not a valid file name")
    if leaves_root(name):
        raise InvalidDatasetError(
            f"{location} leads out of the folder: {make_printable(name)}", _DAMAGED_HINT
        )
    return posixpath.normpath(name)


def _value_to_text(value: object) -> str | None:
    if value in (None, ""):
        return None
    if not is_encodable(text := str(value)):
        raise ValueError(f"UTF-8 cannot encode {text!a}")
    return text
