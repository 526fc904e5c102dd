"""Settings that are allowed together, but are likely not what was meant."""

from collections.abc import Iterator

from trialrun.config import TrainConfig
from trialrun.models.initial import InitialWeights


def likely_mistakes(config: TrainConfig, initial: InitialWeights) -> Iterator[str]:
    """Describe each in one sentence with its consequence."""
    if config.freeze == "backbone" and initial.are_random:
        yield (
            "freeze=backbone keeps the random weights of every layer but the last: set "
            "weights=default, or weights=FILE"
        )
    mixing = [name for name in ("mixup", "cutmix") if getattr(config, name)]
    if mixing:
        yield (
            f"train_accuracy compares predictions for mixed images ({', '.join(mixing)}) with the "
            "labels from before the mixing, so that it is too low: compare valid_accuracy"
        )
