"""Image sets: names and labels of the images in a folder, without their pixels."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeGuard


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image: name relative to the set's root (with `/`), label, and Azure's id if there is one.

    Images of one `group` (one patient, for example) stay together in a split.
    """

    name: str
    label: str | None = None
    id: int | str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images of one source, in a fixed order.

    `declared_classes` are the classes that the layout names, with or without images. `notes`
    describe what was ignored during reading. `skipped` are entries with an image's name that cannot
    be read as files of the set: pipes, devices and links that lead out of the folder or nowhere.
    `class_order` is the order of the classes if it is not that of their names. `outside_links` are
    the names of links that lead out of the folder and were not followed. Links of listed images may
    lead out of it if `follow_links`.
    """

    source: str
    root: Path
    items: tuple[ImageItem, ...]
    declared_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: tuple[ImageItem, ...] = ()
    class_order: tuple[str, ...] = ()
    outside_links: tuple[str, ...] = ()
    follow_links: bool = False

    def __len__(self) -> int:
        return len(self.items)

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels of the images, sorted or in `class_order`; the order of the network's outputs."""
        labels = {item.label for item in self.items if item.label is not None}
        return tuple(sorted(labels, key=self._sort_key))

    def count_classes(self) -> dict[str, int]:
        """Return the number of images per class, in order of `classes`."""
        counts = Counter(item.label for item in self.items if item.label is not None)
        return {name: counts[name] for name in sorted(counts, key=self._sort_key)}

    @property
    def _sort_key(self) -> Callable[[str], tuple[int, str]]:
        places = {name: place for place, name in enumerate(self.class_order)}
        return lambda name: (places.get(name, len(places)), name)

    def path_of(self, item: ImageItem) -> Path:
        """Return the path of an image's file."""
        return self.root / item.name

    def drop_unlabelled(self) -> "ImageSet":
        """Return the set without unlabelled images, with a note of their number."""
        labelled = tuple(item for item in self.items if item.label is not None)
        if len(labelled) == len(self.items):
            return self
        note = f"{len(self.items) - len(labelled)} images without a label are left out"
        return replace(self, items=labelled, notes=(*self.notes, note))

    def subset(self, indices: Iterable[int]) -> "ImageSet":
        """Return the images at `indices`, in that order."""
        return replace(self, items=tuple(self.items[index] for index in indices))


def label_indices(items: Sequence[ImageItem], classes: Sequence[str]) -> list[int]:
    """Return the index into `classes` of each item's label.

    Raises:
        KeyError: An item's label is not in `classes`.
    """
    index_of: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    return [index_of[item.label] for item in items]


def leaves_root(name: str) -> bool:
    """Whether a listed name is absolute or contains `..`, so that it may leave the folder."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\0" in name


def is_encodable(text: object) -> TypeGuard[str]:
    """Whether `text` is valid as a file name: text without lone surrogates, which JSON allows."""
    if not isinstance(text, str):
        return False
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def escape_non_utf8(name: str) -> str:
    r"""Return a file name as valid UTF-8 text; bytes that are not UTF-8 become `\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def make_printable(name: str) -> str:
    """Return a file name for terminals and logs, with control characters escaped as well."""
    text = escape_non_utf8(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
