"""Features of frozen backbones, which the trials of a search, its workers and later runs share."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from trialrun.image_cache.feature_tables import NAME_DIGITS, Features, load_or_compute_features
from trialrun.image_cache.inventory import list_evictable_entries

_MAX_MEMORY_BYTES = 2 << 30


@dataclass(slots=True)
class FeatureCache:
    """The features that this process has used, by name: the latest ones, up to 2 GiB.

    They are mapped files, unless the cache folder cannot store them. The last layer that was fitted
    to features is kept too.
    """

    _tables: dict[str, Features] = field(default_factory=dict)
    _head: tuple[str, tuple[Tensor, Tensor]] | None = None

    def load_or_compute(self, name: str, compute: Callable[[], Features | None]) -> Features | None:
        """Return the features from memory or from the cache folder, or compute and keep them."""
        table = self._tables.pop(name, None)
        if table is None:
            table = load_or_compute_features(name, compute, list_evictable_entries)
        if table is not None:
            self._tables[name] = table
            self._drop_oldest()
        return table

    def load_or_fit(
        self, name: str, fit: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return the last layer of this name if it was the last one; else fit and keep it."""
        if self._head is None or self._head[0] != name:
            self._head = name, fit()
        return self._head[1]

    def _drop_oldest(self) -> None:
        """Drop the tables whose last use is the longest ago, but never the latest one."""
        num_bytes = sum(table.nbytes for table in self._tables.values())
        for name in list(self._tables)[:-1]:
            if num_bytes <= _MAX_MEMORY_BYTES:
                return
            num_bytes -= self._tables.pop(name).nbytes


@dataclass(frozen=True)
class ImageFeatures:
    """The features of a run's images, as the engine's `FeatureStore`.

    `inputs` names the images, their preprocessing, the architecture and the environment.
    `hash_frozen` returns a hash of the frozen layers.
    """

    cache: FeatureCache
    inputs: str
    hash_frozen: Callable[[], str]

    @cached_property
    def _frozen_hash(self) -> str:
        return self.hash_frozen()

    def load_or_compute(self, how: str, compute: Callable[[], Features | None]) -> Features | None:
        """Return the features of both sets; see `FeatureStore`."""
        return self.cache.load_or_compute(self._name(how), compute)

    def load_or_fit(
        self, how: str, fit: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return a last layer; see `FeatureStore`."""
        return self.cache.load_or_fit(self._name(how), fit)

    def _name(self, how: str) -> str:
        digest = hashlib.sha256(f"{self.inputs}\n{self._frozen_hash} {how}".encode())
        return digest.hexdigest()[:NAME_DIGITS]
