"""Phases of a training: the last layer alone in the first epochs, then all layers."""

from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.inputs.features import use_features
from trialrun.engine.optim import freeze_backbone
from trialrun.engine.state import TrainState, wrap_module
from trialrun.engine.steps import count_frozen_epochs


def enter_phase(state: TrainState, config: TrainConfig, ranks: Ranks = SINGLE_PROCESS) -> None:
    """Freeze or unfreeze the backbone as the next epoch needs it; all ranks call this.

    It draws no random numbers and changes no weights, so that a resumed run can call it again.
    """
    freeze = state.epoch < count_frozen_epochs(config)
    if freeze == state.has_frozen_backbone:
        return
    trainable, data = state.network, state.image_data
    if freeze:
        freeze_backbone(state.network, state.head_prefix)
        trainable, data = use_features(
            state.network, state.head_prefix, state.image_data, config, state.compute
        )
    else:
        state.network.requires_grad_(requires_grad=True)
        state.optimizer.zero_grad()
    state.trainable, state.data = trainable, data
    state.train_module = wrap_module(trainable, config, state.compute, ranks)
    state.has_frozen_backbone = freeze
