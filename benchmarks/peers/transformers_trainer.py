"""The same network trained by Hugging Face's Trainer with its defaults.

python transformers_trainer.py TRAIN VALID EPOCHS
"""

import sys

import torch
from torch.utils.data import Dataset
from torchvision import datasets, transforms
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

BATCH_SIZE, LEARNING_RATE, RANDOM_SEED = 16, 0.001, 1
NORMALIZE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Images(Dataset[dict[str, object]]):
    """Class folders in the form that the Trainer needs."""

    def __init__(self, folder: str, steps: list[object]) -> None:
        transform = transforms.Compose([*steps, transforms.ToTensor(), NORMALIZE])
        self._images = datasets.ImageFolder(folder, transform)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, object]:
        pixels, label = self._images[index]
        return {"pixel_values": pixels, "labels": label}


def build_resnet18() -> torch.nn.Module:
    """Build the network that torchvision calls resnet18."""
    sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
    return ResNetForImageClassification(ResNetConfig(layer_type="basic", num_labels=2, **sizes))


def main(train: str, valid: str, epochs: int) -> None:
    """Train with one evaluation and one checkpoint per epoch."""
    crops = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    center = [transforms.Resize(256), transforms.CenterCrop(224)]
    settings = TrainingArguments(
        output_dir="checkpoints",
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to="none",
        seed=RANDOM_SEED,
        use_cpu=True,
    )
    trainer = Trainer(
        model=build_resnet18(),
        args=settings,
        train_dataset=Images(train, [*crops]),
        eval_dataset=Images(valid, [*center]),
    )
    trainer.train()
    trainer.save_model("best")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
