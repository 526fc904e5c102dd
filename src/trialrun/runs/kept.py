"""What the cache holds that can be made again: packs, unpacked archives, ledgers."""

import shutil
from pathlib import Path

from trialrun.config.folders import cache_folder
from trialrun.packing.cache import Described, clear, described

PACKS, LEDGERS, ARCHIVES = "packs", "ledgers", "archives"


def packs_folder() -> Path:
    """Where the packs lie."""
    return cache_folder() / PACKS


def ledgers_folder() -> Path:
    """Where it is noted which files have not changed."""
    return cache_folder() / LEDGERS


def kept_packs() -> list[Described]:
    """Every pack, the one used longest ago first."""
    return described(packs_folder())


def clear_kept() -> tuple[int, int]:
    """Delete packs, unpacked archives and ledgers; how many folders, and their bytes."""
    num_packs, num_bytes = clear(packs_folder())
    archives = cache_folder() / ARCHIVES
    folders = [path for path in archives.iterdir() if path.is_dir()] if archives.is_dir() else []
    for folder in folders:
        num_bytes += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(ledgers_folder(), ignore_errors=True)
    return num_packs + len(folders), num_bytes
