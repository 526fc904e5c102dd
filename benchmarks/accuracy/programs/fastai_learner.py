"""fastai's Learner with its recommended calls: fit_one_cycle, and fine_tune for pretrained weights.

Optimizer (Adam), schedule and the rates of `fine_tune` are its defaults. From random weights:
batches of 64 (its default) and a peak rate of 3e-3. Pretrained: `vision_learner` with its own head.
"""

from fastai.callback.core import Callback
from fastai.vision.all import (
    ImageDataLoaders,
    Learner,
    Normalize,
    Resize,
    accuracy,
    default_split,
    imagenet_stats,
    model_meta,
    set_seed,
    vision_learner,
)
from task import Task, announce, build_network, read_task
from torch import nn

SCRATCH_BATCH, TRANSFER_BATCH = 64, 16
SCRATCH_RATE = 3e-3


class Announcer(Callback):
    """Prints the accuracy of each epoch."""

    order = 60  # after the recorder

    def after_epoch(self) -> None:
        """Print the last metric, the accuracy."""
        announce(float(self.learn.recorder.values[-1][-1]))


def main(task: Task) -> None:
    """Train and save the network."""
    set_seed(task.seed)
    is_scratch = task.weights is None
    loaders = ImageDataLoaders.from_folder(
        task.folder,
        train="train",
        valid="val",
        bs=SCRATCH_BATCH if is_scratch else TRANSFER_BATCH,
        item_tfms=Resize(task.image_size),
        batch_tfms=Normalize.from_stats(*imagenet_stats),
        num_workers=0,
    )

    def build_pretrained(pretrained: bool = True) -> nn.Module:
        return build_network(task)

    options = {"metrics": accuracy, "cbs": Announcer(), "path": "."}
    if is_scratch:
        learner = Learner(loaders, build_network(task), **options)
        learner.fit_one_cycle(task.epochs, SCRATCH_RATE)
    else:
        model_meta[build_pretrained] = {"cut": -1, "split": default_split}  # a new kind of network
        learner = vision_learner(loaders, build_pretrained, normalize=False, **options)
        learner.fine_tune(task.epochs - 1)  # after one epoch that trains the head
    learner.save("best")


if __name__ == "__main__":
    main(read_task())
