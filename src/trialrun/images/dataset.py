"""Image sets: names and labels of the images in a folder, without their pixels."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol, TypeGuard

import numpy as np

from trialrun.images.items import ImageItem as ImageItem
from trialrun.images.items import Indices, Items, encode_labels, select_items

if TYPE_CHECKING:
    import pyarrow as pa


class ShardedContent(Protocol):
    """The contents of a set's images in shards, by row of their index."""

    @property
    def address(self) -> str:
        """The folder, file or pattern that the shards are at."""
        ...

    @property
    def key(self) -> str:
        """The identity of the shards."""
        ...

    @property
    def recorded(self) -> "pa.Table | None":
        """The scans of all rows, if the index has them; see `images.shards.index`."""
        ...

    def read(self, row: int) -> bytes:
        """Return the file of one image.

        Raises:
            UndecodableError: The file is not in the shard.
            InvalidDatasetError: The shard vanished, changed or is truncated.
            StorageError: The store does not answer, or the cache has no room.
        """
        ...

    def read_in_order(self, rows: Indices) -> Iterator[bytes | str]:
        """Yield the files of increasing `rows`, or why a file is not in its shard.

        Raises:
            InvalidDatasetError: As `read`.
            StorageError: As `read`.
        """
        ...

    def hold_in_order(self, rows: Iterable[int]) -> Iterator[int]:
        """Yield `rows` while their shards are on this machine."""
        ...

    def sort_rows(self, rows: Indices) -> Indices:
        """Return the places of `rows` in the order that the images had before sharding."""
        ...


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images of one source, in a fixed order.

    `declared_classes` are the classes that the layout names, with or without images. `notes`
    describe what was ignored during reading. `skipped` are entries with an image's name that cannot
    be read as files of the set: pipes, devices and links that lead out of the folder or nowhere.
    `class_order` is the order of the classes if it is not that of their names. `outside_links` are
    the names of links that lead out of the folder and were not followed. Links of listed images may
    lead out of it if `follow_links`. `shards` hold the images of an `ItemTable`; its images have no
    files of their own.
    """

    source: str
    root: Path
    items: Items
    declared_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: Items = ()
    class_order: tuple[str, ...] = ()
    outside_links: tuple[str, ...] = ()
    follow_links: bool = False
    shards: ShardedContent | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels of the images, sorted or in `class_order`; the order of the network's outputs."""
        return tuple(self.count_classes())

    def count_classes(self) -> dict[str, int]:
        """Return the number of images per class, in order of `classes`."""
        counts = encode_labels(self.items).count()
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
        is_labelled = encode_labels(self.items).codes >= 0
        num_unlabelled = len(self.items) - int(is_labelled.sum())
        if not num_unlabelled:
            return self
        note = f"{num_unlabelled} images without a label are left out"
        labelled = self.subset(np.flatnonzero(is_labelled))
        return replace(labelled, notes=(*self.notes, note))

    def subset(self, indices: Iterable[int] | Indices) -> "ImageSet":
        """Return the images at `indices`, in that order."""
        return replace(self, items=select_items(self.items, indices))


def label_indices(items: Sequence[ImageItem], classes: Sequence[str]) -> list[int]:
    """Return the index into `classes` of each item's label.

    Raises:
        KeyError: An item's label is not in `classes`.
    """
    index_of = {name: index for index, name in enumerate(classes)}
    labels = encode_labels(items)
    if (labels.codes < 0).any():
        raise KeyError(None)
    present = labels.count()
    numbers = [index_of[text] if text in present else -1 for text in labels.texts]
    found: list[int] = np.asarray(numbers, dtype=np.int64)[labels.codes].tolist()
    return found


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
