"""An image set as read from its folder: names, labels, no pixels.

Nothing here opens an image, so that a wrong layout is told in well under a second.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image: its name below the set's root (with `/`), its label, Azure's id if it has one.

    Images of one `group` show the same thing, and no split parts them.
    """

    name: str
    label: str | None = None
    id: int | str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images of one source, in a fixed order.

    `declared_classes` are those the layout names, whether or not an image has them; `notes` say
    what was left out while reading, for people.
    """

    source: str
    root: Path
    items: tuple[ImageItem, ...]
    declared_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted: a class's place here is its index in the network."""
        return tuple(sorted({item.label for item in self.items if item.label is not None}))

    def counts(self) -> dict[str, int]:
        """Images by class, classes in order; unlabelled images are not counted."""
        counted = Counter(item.label for item in self.items if item.label is not None)
        return dict(sorted(counted.items()))

    def path_of(self, item: ImageItem) -> Path:
        """Where an image's file lies."""
        return self.root / item.name

    def labelled(self) -> "ImageSet":
        """The set without its unlabelled images, which a note counts."""
        kept = tuple(item for item in self.items if item.label is not None)
        if len(kept) == len(self.items):
            return self
        note = f"{len(self.items) - len(kept)} images without a label are left out"
        return replace(self, items=kept, notes=(*self.notes, note))

    def subset(self, indices: Iterable[int]) -> "ImageSet":
        """The images at `indices`, in the order given."""
        return replace(self, items=tuple(self.items[index] for index in indices))


def label_indices(items: Sequence[ImageItem], classes: Sequence[str]) -> list[int]:
    """Each item's class as an index into `classes`, by name.

    Raises:
        KeyError: An item's label is not among `classes`.
    """
    index_of: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    return [index_of[item.label] for item in items]


def leaves_root(name: str) -> bool:
    """Whether a name in a list is absolute or climbs with `..`, and so may lie elsewhere."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\0" in name


def is_encodable(text: object) -> bool:
    """Whether this is text that a file may be called: half a character, as JSON allows, is none."""
    if not isinstance(text, str):
        return False
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def escape_non_utf8(name: str) -> str:
    r"""A file's name as text that UTF-8 can hold: bytes of it that are not become `\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def make_printable(name: str) -> str:
    """A file's name as text that any terminal or log takes: also newlines and the like escaped."""
    text = escape_non_utf8(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
