"""Room in the cache for images to decode, made by eviction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trialrun.cache.eviction import CacheEntry, evict_lru
from trialrun.files import sweep_unlocked_drafts
from trialrun.image_cache.entries import list_evictable
from trialrun.image_cache.segments.writer import estimate_bytes


@dataclass(frozen=True, slots=True)
class Room:
    """Room for images of `image_size` pixels below `folder`; other entries share the limit."""

    folder: Path
    image_size: int
    limit_bytes: int
    list_other_entries: Callable[[], Sequence[CacheEntry]]

    def make(self, num_images: int) -> bool:
        """Evict entries until `num_images` fit; return False if they cannot."""
        return evict_lru(
            self.folder,
            self._list_entries(),
            estimate_bytes(num_images, self.image_size),
            limit_bytes=self.limit_bytes - sweep_unlocked_drafts(self.folder),
        )

    def describe_lack(self, num_images: int) -> str:
        """Return why `num_images` do not fit, as a sentence without its subject."""
        needed = estimate_bytes(num_images, self.image_size)
        in_use = sum(entry.num_bytes for entry in self._list_entries() if entry.is_in_use)
        being_written = sweep_unlocked_drafts(self.folder)
        others = f", {in_use / 1e9:.3g} GB in use" if in_use else ""
        others += f", {being_written / 1e9:.3g} GB being written" if being_written else ""
        return (
            f"would take {needed / 1e9:.3g} GB decoded, which does not fit into {self.folder} "
            f"(limit {self.limit_bytes / 1e9:g} GB{others}): images are decoded as they are needed"
        )

    def _list_entries(self) -> list[CacheEntry]:
        return [*list_evictable(self.folder), *self.list_other_entries()]
