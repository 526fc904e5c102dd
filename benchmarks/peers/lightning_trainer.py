"""The same network trained by Lightning's Trainer with its defaults.

python lightning_trainer.py TRAIN VALID EPOCHS
"""

import sys

import lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

BATCH_SIZE, LEARNING_RATE, RANDOM_SEED = 16, 0.001, 1
NORMALIZE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Classifier(lightning.LightningModule):
    """ResNet-18 with cross entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.network = models.resnet18(num_classes=2)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self.network(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        """Log loss and accuracy of a batch."""
        images, labels = batch
        logits = self.network(images)
        self.log("valid_loss", F.cross_entropy(logits, labels))
        self.log("valid_accuracy", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True)


def make_loader(folder: str, steps: list[object], *, shuffle: bool) -> DataLoader[object]:
    """Make a data loader for class folders."""
    transform = transforms.Compose([*steps, transforms.ToTensor(), NORMALIZE])
    return DataLoader(datasets.ImageFolder(folder, transform), BATCH_SIZE, shuffle=shuffle)


def main(train: str, valid: str, epochs: int) -> None:
    """Train with checkpoints and the default logger."""
    lightning.seed_everything(RANDOM_SEED)
    crops = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    center = [transforms.Resize(256), transforms.CenterCrop(224)]
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu")
    trainer.fit(
        Classifier(),
        make_loader(train, [*crops], shuffle=True),
        make_loader(valid, [*center], shuffle=False),
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
