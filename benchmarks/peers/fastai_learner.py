"""The same network trained by fastai's Learner with its defaults.

python fastai_learner.py TRAIN VALID EPOCHS
"""

import sys
from pathlib import Path

from fastai.vision.all import (
    SGD,
    ImageDataLoaders,
    Learner,
    RandomResizedCrop,
    accuracy,
    aug_transforms,
    set_seed,
)
from torchvision.models import resnet18

BATCH_SIZE, LEARNING_RATE, RANDOM_SEED = 16, 0.001, 1


def main(train: str, valid: str, epochs: int) -> None:
    """Train and save the network."""
    set_seed(RANDOM_SEED)
    folder = Path(train).parent
    loaders = ImageDataLoaders.from_folder(
        folder,
        train=Path(train).name,
        valid=Path(valid).name,
        bs=BATCH_SIZE,
        item_tfms=RandomResizedCrop(224),
        batch_tfms=aug_transforms(),
    )
    learner = Learner(
        loaders, resnet18(num_classes=2), opt_func=SGD, metrics=accuracy, path=Path.cwd()
    )
    learner.fit(epochs, LEARNING_RATE)
    learner.save("best")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
