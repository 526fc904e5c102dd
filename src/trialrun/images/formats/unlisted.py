"""Files in a folder that its image list does not name."""

import os
from collections.abc import Iterable
from pathlib import Path

from trialrun.images.notes import format_examples
from trialrun.images.scanning.walk import walk_folder


def describe_unlisted(
    folder: Path, names: Iterable[str], list_name: str, *, follow_links: bool = False
) -> tuple[str, ...]:
    """Return a note on the image files below `folder` that are not among the listed `names`.

    Raises:
        OSError: `folder` cannot be listed.
    """
    listing = walk_folder(folder, follow_links=follow_links)
    found = {*listing.images, *listing.skipped}
    listed = set(names)
    if elsewhere := listed - found:  # listed under a link's name, or missing
        root = os.path.realpath(folder)
        listed |= {os.path.relpath(os.path.realpath(folder / name), root) for name in elsewhere}
    unlisted = sorted(found - listed)
    if not unlisted:
        return ()
    return (
        f"{len(unlisted)} image files are not in {list_name} (ignored), for example "
        f"{format_examples(unlisted)}",
    )
