"""Checks of the disks: free space where trialrun writes, and whether the folders are writable."""

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from trialrun.cache.location import cache_folder
from trialrun.checkpoint.run_folder import list_default_roots
from trialrun.errors import StorageError
from trialrun.mlflow_client.tracking_uri import find_sqlite_path, make_absolute
from trialrun.runs.recovery.doctor.findings import Finding, report_ok, report_problem

# Three checkpoints of a ResNet-50 with AdamW and its moving average are 1.5 GB: two are kept while
# the next one is written. The largest upload of a model has a similar size.
_MIN_FREE_BYTES = 2 * 10**9
_NUM_CHECKPOINTS = 2


def check_disks(checkpoint_dir: str | None, largest_checkpoint_bytes: int) -> Iterator[Finding]:
    """Yield one finding per disk that trialrun writes to, and one per folder it cannot write to.

    A disk needs 2 GB, or space for two checkpoints like the largest one of an interrupted run.
    """
    places = _list_places(checkpoint_dir)
    limit = max(_MIN_FREE_BYTES, _NUM_CHECKPOINTS * largest_checkpoint_bytes)
    uses: dict[int, list[str]] = defaultdict(list)
    folders: dict[int, Path] = {}
    for use, folder in places.items():
        existing = _find_existing(folder)
        if not os.access(existing, os.W_OK | os.X_OK):
            yield _report_read_only(use, folder)
        device = existing.stat().st_dev
        uses[device].append(use)
        folders.setdefault(device, existing)
    for device, folder in folders.items():
        yield _check_free(folder, ", ".join(uses[device]), limit)


def _list_places(checkpoint_dir: str | None) -> Mapping[str, Path]:
    import mlflow

    uri = make_absolute(mlflow.get_tracking_uri())
    roots = list_default_roots(uri)
    writable = (root for root in roots if os.access(_find_existing(root), os.W_OK | os.X_OK))
    places = {
        "run folders": Path(checkpoint_dir) if checkpoint_dir else next(writable, roots[-1]),
        "cache": cache_folder(),
        "temporary files": Path(tempfile.gettempdir()),
    }
    database = find_sqlite_path(uri)
    return places if database is None else {"store": database.parent, **places}


def _find_existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    absolute = folder.expanduser().absolute()
    return next(path for path in (absolute, *absolute.parents) if path.is_dir())


def _report_read_only(use: str, folder: Path) -> Finding:
    remedy = {
        "store": "Make the database's folder writable.",
        "cache": "Set TRIALRUN_CACHE to a writable folder.",
        "run folders": "Give --checkpoint-dir a writable folder.",
    }.get(use, "Set TMPDIR to a writable folder.")
    return report_problem("folders", f"{folder} ({use}) is not writable", remedy, StorageError)


def _check_free(folder: Path, uses: str, limit_bytes: int) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free at {folder} ({uses})"
    if free >= limit_bytes:
        return report_ok("disk space", text)
    needed = f"less than {limit_bytes / 1e9:.1f} GB"
    return report_problem("disk space", f"{text}: {needed}", _suggest_space(uses), StorageError)


def _suggest_space(uses: str) -> str:
    cache = " `trialrun cache clear` deletes decoded images." if "cache" in uses else ""
    return f"Free some space.{cache}"
