"""Features that a process keeps between trials: their number is limited."""

import numpy as np
import pytest

from trialrun.image_cache.feature_tables import Features
from trialrun.runs.training.inputs import features
from trialrun.runs.training.inputs.features import FeatureCache


def test_memory_for_features_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache folder stores none, the tables that were used last stay in memory."""
    monkeypatch.setenv("TRIALRUN_CACHE_GB", "0")
    monkeypatch.setattr(features, "_MAX_MEMORY_BYTES", 250)
    cache, computed = FeatureCache(), list[str]()

    def load(name: str) -> None:
        def compute() -> Features:
            computed.append(name)
            return np.zeros((5, 5), np.float32)  # 100 bytes

        cache.load_or_compute(name * 32, compute)

    for name in "abacab":
        load(name)
    assert computed == ["a", "b", "c", "b"]
