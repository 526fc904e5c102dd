"""Recognition of a repository in Hugging Face's cache: its data is in one of its snapshots."""

from pathlib import Path

from trialrun.errors import InvalidDatasetError
from trialrun.images.notes import format_examples

_BLOBS, _SNAPSHOTS = "blobs", "snapshots"


def check_no_hub_cache(folder: Path, source: str) -> None:
    """Check that a folder is not a whole repository of the cache: its blobs have no names.

    Raises:
        InvalidDatasetError: It is one.
    """
    snapshots = folder / _SNAPSHOTS
    if not (snapshots.is_dir() and (folder / _BLOBS).is_dir()):
        return
    names = sorted(path.name for path in snapshots.iterdir())
    first = f"{source.rstrip('/')}/{_SNAPSHOTS}/{names[0] if names else 'REVISION'}"
    raise InvalidDatasetError(
        f"{source} is a repository in Hugging Face's cache with {len(names)} snapshots "
        f"({format_examples(names)})",
        f"Give one of them, such as {first}, and set follow_links=true.",
    )
