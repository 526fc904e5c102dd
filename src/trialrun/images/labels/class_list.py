"""Class lists: files with the classes in order, which rename, merge and leave out labels.

    .txt    one class per line; `CLASS = LABEL` gives the label another name, and several lines with
            one class merge their labels
    .csv    the columns label and class
    .json   a list of classes, or an object from each class to its label or list of labels

The order of classes is that of their first lines. Labels that the file does not name are left out.
"""

import csv
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trialrun.errors import InvalidParameterError, summarize_error
from trialrun.images.dataset import ImageSet, is_encodable, make_printable
from trialrun.images.items import Items, encode_labels, rename_labels, select_items

_HINT = "Write one class per line, or CLASS = LABEL to rename or merge labels."
_MAX_SHOWN = 5  # labels in a note

_Pairs = Iterator[tuple[str, str]]  # the class and one of its labels, in the file's order


@dataclass(frozen=True, slots=True)
class ClassList:
    """The classes in the order of the network's outputs, and the class of each label."""

    classes: tuple[str, ...]
    class_of: Mapping[str, str]


def read_class_list(name: str) -> ClassList:
    """Read the file that the setting `classes` names.

    Raises:
        InvalidParameterError: The file cannot be read, is damaged, or gives a label two classes.
    """
    try:
        path = Path(name).expanduser()
        content = path.read_text("utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidParameterError(
            f"classes={name} cannot be read: {summarize_error(error)}",
            "Give a file in UTF-8 that lists the classes.",
        ) from None
    return parse_class_list(content, path.suffix, f"classes={name}")


def parse_class_list(content: str, suffix: str, location: str) -> ClassList:
    """Parse the content of a class list; `location` names it in errors.

    Raises:
        InvalidParameterError: It is damaged, lists no class, or gives a label two classes.
    """
    parse = _PARSERS.get(suffix.lower(), _parse_lines)
    try:
        pairs = [(_clean(class_name), _clean(label)) for class_name, label in parse(content)]
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        raise InvalidParameterError(
            f"{location} is not a class list: {summarize_error(error)}", _HINT
        ) from None
    if not pairs:
        raise InvalidParameterError(f"{location} lists no class", _HINT)
    class_of: dict[str, str] = {}
    for class_name, label in pairs:
        if class_of.setdefault(label, class_name) != class_name:
            raise InvalidParameterError(
                f"{location} gives the label {make_printable(label)} two classes: "
                f"{make_printable(class_of[label])} and {make_printable(class_name)}",
                "Keep one of them.",
            )
    return ClassList(tuple(dict.fromkeys(class_name for class_name, _ in pairs)), class_of)


def apply_class_list(images: ImageSet, class_list: ClassList) -> ImageSet:
    """Return the images with the listed classes, without those of other classes.

    Unlabelled images stay. A note counts and names what is left out.
    """
    counts = encode_labels(images.items).count()
    left_out = Counter(
        {label: n for label, n in counts.items() if label not in class_list.class_of}
    )
    notes = images.notes
    if left_out:
        notes = (*notes, _describe_left_out(left_out))
    return replace(
        images,
        items=_map_items(images.items, class_list),
        skipped=_map_items(images.skipped, class_list),
        declared_classes=class_list.classes,
        class_order=class_list.classes,
        notes=notes,
    )


def _map_items(items: Items, class_list: ClassList) -> Items:
    labels = encode_labels(items)
    is_kept = np.asarray([text in class_list.class_of for text in labels.texts] + [True])
    kept = select_items(items, np.flatnonzero(is_kept[labels.codes]))
    return rename_labels(kept, class_list.class_of)


def _describe_left_out(left_out: Counter[str]) -> str:
    shown = [f"{make_printable(name)} ({n})" for name, n in left_out.most_common(_MAX_SHOWN)]
    rest = len(left_out) - len(shown)
    return (
        f"{left_out.total()} images with labels that the class list does not name are left out: "
        f"{', '.join(shown)}{f' and {rest} more labels' if rest else ''}"
    )


def _clean(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{name!a} is not text")
    text = unicodedata.normalize("NFC", name.strip())  # as labels are normalized
    if not text or not is_encodable(text):
        raise ValueError(f"{name!a} is not a name")
    return text


def _parse_lines(content: str) -> _Pairs:
    for line in content.splitlines():
        if line.strip():
            class_name, separator, label = line.partition(" = ")
            yield class_name, label if separator else class_name


def _parse_csv(content: str) -> _Pairs:
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    if not {"label", "class"} <= set(columns):
        raise ValueError(f"its columns are {columns}, not label and class")
    for row in reader:
        yield row["class"], row["label"]


def _parse_json(content: str) -> _Pairs:
    listed = json.loads(content, object_pairs_hook=list)  # an object may repeat a class
    if not isinstance(listed, list):
        raise TypeError("neither a list nor an object")
    for entry in listed:
        if not isinstance(entry, tuple):
            yield entry, entry
            continue
        class_name, labels = entry
        for label in labels if isinstance(labels, list) else [labels]:
            yield class_name, label


_PARSERS: dict[str, Callable[[str], _Pairs]] = {".csv": _parse_csv, ".json": _parse_json}
