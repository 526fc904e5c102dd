"""Memory of frozen backbones, which the next training of the process uses again."""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from trialrun.models.open import InitialNetwork
from trialrun.models.weights.state_hash import add_to_hash
from trialrun.models.zoo.networks import find_head_prefix
from trialrun.runs.training.inputs.features import FeatureCache

Note = Callable[[str], None]


@dataclass(slots=True)
class NetworkMemory:
    """The last network with a frozen backbone and a new last layer, which is trained again.

    Training changes nothing but the last layer, whose initial values are drawn again.
    """

    _key: Hashable = None
    _initial: InitialNetwork | None = None
    _notes: list[str] = field(default_factory=list)
    _frozen_hash: "hashlib._Hash | None" = None

    def create(
        self, key: Hashable, seed: int, build: Callable[[Note], InitialNetwork], note: Note
    ) -> InitialNetwork:
        """Return the network with the initial values that torch's generator draws from `seed`.

        Args:
            key: What the network depends on, besides the seed.
            seed: That of the new last layer.
            build: Builds the network with values of torch's generator, and notes what it did.
            note: Receives the notes, also where the network is not built again.
        """
        torch.manual_seed(seed)
        initial = self._draw_again() if self._key == key else None
        if initial is None:
            # Without the one before, so that its memory is free when the next one is built.
            self._initial, self._notes, self._frozen_hash = None, [], None
            initial = self._initial = build(self._notes.append)
            self._key = key
        for text in self._notes:
            note(text)
        return initial

    def _draw_again(self) -> InitialNetwork | None:
        """Return the network with a last layer drawn anew; None if this is not possible."""
        initial = self._initial
        if initial is None or initial.head_draw is None or not initial.head_draw.can_repeat:
            return None
        initial.network.train().zero_grad()
        initial.head_draw.repeat()
        return initial

    def hash_initial(self) -> str:
        """Return `hash_state` of the network before training; frozen layers are hashed once."""
        digest, rest = self._hash_first_layers()
        add_to_hash(digest, rest)
        return digest.hexdigest()

    def hash_frozen(self) -> str:
        """Return `hash_frozen_layers` of the network; layers are hashed once."""
        digest, rest = self._hash_first_layers()
        prefix = find_head_prefix(self._network)
        others = {name: t for name, t in rest.items() if not name.startswith(prefix)}
        add_to_hash(digest, others)
        return digest.hexdigest()

    @property
    def _network(self) -> nn.Module:
        assert self._initial is not None, "the network is created first"
        return self._initial.network

    def _hash_first_layers(self) -> "tuple[hashlib._Hash, dict[str, Tensor]]":
        """Return the hash of the tensors before the last layer's, and the other tensors."""
        tensors, prefix = list(self._network.state_dict().items()), find_head_prefix(self._network)
        first = next(i for i, (name, _) in enumerate(tensors) if name.startswith(prefix))
        if self._frozen_hash is None:
            self._frozen_hash = hashlib.sha256()
            add_to_hash(self._frozen_hash, dict(tensors[:first]))
        return self._frozen_hash.copy(), dict(tensors[first:])


@dataclass(frozen=True, slots=True)
class BackboneMemory:
    """The features, the networks and the comparisons of one process.

    `compared` are digests of the frozen layers, and descriptions, of models that passed the parity
    check.
    """

    features: FeatureCache = field(default_factory=FeatureCache)
    networks: NetworkMemory = field(default_factory=NetworkMemory)
    compared: set[str] = field(default_factory=set)
