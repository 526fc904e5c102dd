"""The images of an epoch and their order, which depend on the seed and the epoch alone."""

import numpy as np
from numpy.typing import NDArray

from trialrun.engine.inputs.seeds import derive_seed, draw_permutation

NATURAL = "natural"


def draw_order(
    labels: NDArray[np.int64], random_seed: int, epoch: int, class_sampling: str
) -> NDArray[np.int64]:
    """Return the positions of an epoch's images in random order, as many as there are labels.

    Args:
        labels: (N,), the class of each image.
        random_seed: The run's seed.
        epoch: From 1.
        class_sampling: `natural` draws each image once; `balanced` draws equally many of each
            class that has images. N is added to a position for each repetition of its image.
    """
    if class_sampling == NATURAL:
        return draw_permutation(len(labels), derive_seed(random_seed, "order", epoch))
    chosen = _draw_balanced(labels, random_seed, epoch)
    return chosen[draw_permutation(len(chosen), derive_seed(random_seed, "order", epoch))]


def _draw_balanced(labels: NDArray[np.int64], random_seed: int, epoch: int) -> NDArray[np.int64]:
    """Return N positions by class; a class's images are repeated only once all were drawn."""
    classes = np.unique(labels)
    smaller, num_larger = divmod(len(labels), len(classes))
    # Which classes get one image more changes from epoch to epoch.
    ranking = draw_permutation(len(classes), derive_seed(random_seed, "class order", epoch))
    drawn = []
    for place, number in enumerate(ranking.tolist()):
        members = np.flatnonzero(labels == classes[number])
        num_draws = smaller + (place < num_larger)
        num_passes = -(-num_draws // len(members))
        passes = [
            members[draw_permutation(len(members), _pass_seed(random_seed, epoch, number, repeat))]
            + repeat * len(labels)
            for repeat in range(num_passes)
        ]
        drawn.append(np.concatenate([*passes, members[:0]])[:num_draws])
    return np.concatenate(drawn)


def _pass_seed(random_seed: int, epoch: int, number: int, repeat: int) -> int:
    return derive_seed(random_seed, "class", epoch, number, repeat)
