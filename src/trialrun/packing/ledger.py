"""What was found of files that have not changed since: they are not read again to be surveyed.

A file counts as unchanged while its size, inode and times of change (which nobody can set back)
stay the same; one that was changed less than two seconds before it was read is not trusted. One
ledger a root folder, kept in the cache.
"""

import json
import os
import time
from dataclasses import astuple
from hashlib import sha256
from pathlib import Path
from typing import Any

from trialrun.errors import StorageError
from trialrun.files import write_durably
from trialrun.images.dataset import ImageItem, ImageSet
from trialrun.images.survey import Progress, Sighting, Survey, no_progress, survey

_FORMAT = 1  # raised when a header would be judged differently
_SETTLED_SECONDS = 2.0  # coarser than the time stamps of any file system in use

Stamp = tuple[int, int, int, int]


def surveyed_again(
    images: ImageSet, folder: Path, *, threads: int, progress: Progress = no_progress
) -> Survey:
    """The survey of `images`; files that the ledger below `folder` knows are not read again."""
    ledger = _Ledger(images.root, folder)
    surveyed = survey(images, threads=threads, known=ledger.known, progress=progress)
    ledger.keep(surveyed)
    return surveyed


class _Ledger:
    """Sightings by name, with the stamp that each file had."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = str(root)
        self._path = folder / f"{sha256(os.fsencode(root)).hexdigest()[:32]}.json"
        self._rows: dict[str, list[Any]] = _read(self._path)
        self._stamps: dict[str, Stamp] = {}

    def known(self, item: ImageItem) -> Sighting | None:
        """What was found of a file that has not changed since."""
        try:
            status = os.stat(os.path.join(self._root, item.name))  # noqa: PTH116, PTH118 - speed
        except OSError:
            return None
        stamp = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        row = self._rows.get(item.name)
        if row is not None and tuple(row[:4]) == stamp:
            return Sighting(*row[4:])
        newest = max(status.st_mtime, status.st_ctime)
        if time.time() - newest > _SETTLED_SECONDS:
            self._stamps[item.name] = stamp
        return None

    def keep(self, surveyed: Survey) -> None:
        """Write down what is new; a cache that cannot be written is no fault."""
        if not self._stamps:
            return
        for item, seen in zip(surveyed.images.items, surveyed.sightings, strict=True):
            if (stamp := self._stamps.get(item.name)) is not None and seen.sha256:
                self._rows[item.name] = [*stamp, *astuple(seen)]
        content = {"format": _FORMAT, "rows": self._rows}
        try:
            write_durably(self._path, json.dumps(content, separators=(",", ":")))
        except StorageError:
            return


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] == _FORMAT:
            rows: dict[str, list[Any]] = content["rows"]
            return rows
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}
