"""What decoding found of every image of a set: a reason where it failed, else how it looks."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialrun.files import write_durably
from trialrun.images.content import content_of
from trialrun.images.dataset import ImageItem
from trialrun.images.header import UndecodableError
from trialrun.images.preprocessing import Preprocessing
from trialrun.images.survey import Sighting, Survey
from trialrun.images.workers import ITEM_SECONDS, TOO_SLOW, in_order
from trialrun.packing.likeness import NO_LIKENESS, likeness_of

Pixels = NDArray[np.uint8]
Job = tuple[int, ImageItem, Sighting]  # the row, and what is known of its file
# Takes a row's pixels in the thread that decoded them, where they are still in its processor's
# cache; gives a checksum of them.
Keep = Callable[[int, Pixels], int]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image as (S, S, 3) uint8 with its likeness, or the reason why there is none.

    Where the pixels were kept elsewhere there is a checksum in their place.
    """

    pixels: Pixels | None
    reason: str = ""
    likeness: bytes = NO_LIKENESS
    checksum: int = 0


@dataclass(slots=True)
class Verdicts:
    """A reason an image, empty where it is usable, and all likenesses one after the other."""

    reasons: list[str] = field(default_factory=list)
    likenesses: bytearray = field(default_factory=bytearray)

    def add(self, decoded: Decoded) -> None:
        """The next image's verdict."""
        self.reasons.append(decoded.reason)
        self.likenesses += decoded.likeness


def decode_all(
    surveyed: Survey,
    preprocessing: Preprocessing,
    rows: Iterable[int],
    *,
    threads: int,
    seconds: float = ITEM_SECONDS,
    keep: Keep | None = None,
) -> Iterator[Decoded]:
    """The images at `rows`, decoded by `threads` threads, in that order; `keep` takes the pixels.

    A file whose bytes are no longer those that were surveyed is refused.
    """
    items, sightings = surveyed.images.items, surveyed.sightings
    return in_order(
        _decoder(surveyed.images.root, preprocessing, keep),
        ((row, items[row], sightings[row]) for row in rows),
        threads=threads,
        late=_too_slow,
        seconds=seconds,
    )


def judge(
    surveyed: Survey,
    preprocessing: Preprocessing,
    *,
    threads: int,
    progress: Callable[[int], None],
    seconds: float = ITEM_SECONDS,
) -> Verdicts:
    """Decode every image and keep the verdict alone."""
    verdicts = Verdicts()
    rows = range(len(surveyed.sightings))
    for decoded in decode_all(
        surveyed, preprocessing, rows, threads=threads, seconds=seconds, keep=_keep_nothing
    ):
        verdicts.add(decoded)
        progress(1)
    return verdicts


def _keep_nothing(_row: int, _pixels: Pixels) -> int:
    return 0


def _too_slow(_job: Job) -> Decoded:
    return Decoded(None, TOO_SLOW)


def _decoder(
    root: Path, preprocessing: Preprocessing, keep: Keep | None
) -> Callable[[Job], Decoded]:
    def decoded(job: Job) -> Decoded:
        row, item, seen = job
        if seen.reason:
            return Decoded(None, seen.reason)
        try:
            data = content_of(root, item.name)
            if sha256(data).hexdigest() != seen.sha256:
                return Decoded(None, "changed while it was being read")
            pixels = preprocessing.pixels(data).permute(1, 2, 0).contiguous().numpy()
        except UndecodableError as error:
            return Decoded(None, str(error))
        if keep is None:
            return Decoded(pixels)
        return Decoded(None, "", likeness_of(pixels), keep(row, pixels))

    return decoded


def write_verdicts(path: Path, verdicts: Verdicts, facts: dict[str, Any]) -> None:
    """Write the verdicts and what else is to be known, under a checksum, whole or not at all."""
    content = json.dumps(
        {
            **facts,
            "num_images": len(verdicts.reasons),
            "reasons": {row: reason for row, reason in enumerate(verdicts.reasons) if reason},
            "likenesses": base64.b64encode(verdicts.likenesses).decode(),
        }
    )
    write_durably(path, f"{sha256(content.encode()).hexdigest()}\n{content}\n")


def read_verdicts(path: Path) -> tuple[Verdicts, dict[str, Any]] | None:
    """What `write_verdicts` wrote; None where the file is missing or damaged."""
    try:
        checksum, content, _ = path.read_text("utf-8").split("\n")
    except (OSError, ValueError):
        return None
    if sha256(content.encode()).hexdigest() != checksum:
        return None
    facts = json.loads(content)
    reasons = [""] * int(facts["num_images"])
    for row, reason in facts["reasons"].items():
        reasons[int(row)] = reason
    return Verdicts(reasons, bytearray(base64.b64decode(facts["likenesses"]))), facts
