"""Features of a frozen backbone: computed once, for the weights and images that they belong to."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.engine.conftest import CPU, SIZE, make_dataset
from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.fine_tuning.head_probe import fit_head
from trialrun.engine.fit import fit
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.state import TrainState, init_train_state
from trialrun.images.decoding.preprocessing import Preprocessing

Features = NDArray[np.float32]
CONFIG = TrainConfig(freeze="backbone", epochs=2, batch_size=8, learning_rate=0.1)


class DictStore:
    """A `FeatureStore` in memory."""

    def __init__(self) -> None:
        self.tables: dict[str, Features] = {}
        self.heads: dict[str, tuple[Tensor, Tensor]] = {}

    def load_or_compute(
        self, backbone: str, compute: Callable[[], Features | None]
    ) -> Features | None:
        """Return the table of this backbone."""
        if backbone not in self.tables and (table := compute()) is not None:
            self.tables[backbone] = table
        return self.tables.get(backbone)

    def load_or_fit(
        self, how: str, fit: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return the last layer of this name."""
        if how not in self.heads:
            self.heads[how] = fit()
        return self.heads[how]


class Network(nn.Module):
    """A backbone of one convolution, which counts the images that run through it, and a head."""

    def __init__(self, *, seed: int = 5) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        torch.manual_seed(seed)
        self.fc = nn.Linear(4, 3)
        self.num_images = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        self.num_images += len(images)
        features: Tensor = self.conv(images).relu().mean(dim=(2, 3))
        logits: Tensor = self.fc(features)
        return logits


def start(
    store: DictStore | None, network: Network | None = None, **settings: Any
) -> tuple[TrainState, Network]:
    """Return the state before training of a network with a frozen backbone."""
    network = network or Network()
    data = TrainingData(
        make_dataset(24), make_dataset(9, seed=1), 3, Preprocessing(SIZE), features=store
    )
    config = replace(CONFIG, **settings)
    return init_train_state(network, "fc.", data, config, CPU), network


def test_trainings_with_one_store_compute_the_features_once() -> None:
    """The second training, with other settings, runs no image through the backbone."""
    store = DictStore()
    _, first = start(store)
    state, second = start(store, batch_size=5, learning_rate=0.01)
    list(fit(state, replace(CONFIG, batch_size=5)))
    assert first.num_images == 1 + 24 + 9  # one image tests how the network ends
    assert second.num_images == 0


def test_stored_features_train_as_computed_ones() -> None:
    """All metrics and weights are equal, bit by bit."""
    store = DictStore()
    start(store, batch_size=3)
    results = []
    for features in (store, None):
        state, network = start(features)
        losses = [(r.train_loss, r.validation.loss) for r in fit(state, CONFIG)]
        results.append((losses, network.fc.weight.tolist()))
    assert results[0] == results[1]


def test_random_inputs_use_no_stored_features() -> None:
    """With augmentation every epoch has other pixels."""
    store = DictStore()
    state, _ = start(store, augment="flip")
    assert state.trainable is state.network
    assert store.tables == {}


def test_only_the_last_layer_is_copied_after_the_first_epoch() -> None:
    """The other tensors of the best epoch are those of every epoch."""
    state, _ = start(None)
    assert set(state.list_weights(changing_only=True)) == {"fc.weight", "fc.bias"}
    assert len(state.list_weights(changing_only=False)) == 4


def test_trainings_with_one_store_fit_the_last_layer_once_per_loss() -> None:
    """It has the bits of a layer that is fitted again, whatever random values it had."""
    store, heads = DictStore(), list[Tensor]()
    for features, smoothing in ((store, 0.0), (store, 0.0), (None, 0.0), (store, 0.1)):
        state, network = start(features, Network(seed=len(heads)), label_smoothing=smoothing)
        assert fit_head(state, replace(CONFIG, label_smoothing=smoothing), SINGLE_PROCESS)
        heads.append(network.fc.weight.detach().clone())
    assert len(store.heads) == 2
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[3])
