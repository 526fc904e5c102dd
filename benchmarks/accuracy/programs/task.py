"""The task that a program gets, the network to train, and the images without augmentation."""

import json
import sys
from dataclasses import dataclass

import torch
from torch import nn
from torchvision import datasets, models, transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CROP = 224 / 256  # of torchvision's weights: the side of the central crop after resizing


@dataclass(frozen=True)
class Task:
    """What to train; `weights` is a file of torchvision's weights, or None for random ones."""

    folder: str  # has train and val, each with one folder per class
    network: str
    num_classes: int
    image_size: int
    weights: str | None
    epochs: int
    seed: int


def read_task() -> Task:
    """Return the task of the command line."""
    return Task(**json.loads(sys.argv[1]))


def announce(accuracy: float) -> None:
    """Print the validation accuracy of an epoch, for the process that measures the time."""
    print(f"valid_accuracy={accuracy:.6f}", flush=True)


def build_network(task: Task) -> nn.Module:
    """Build torchvision's network with a last layer for the task's classes."""
    if task.weights is None:
        return models.get_model(task.network, num_classes=task.num_classes)
    network = models.get_model(task.network)
    network.load_state_dict(torch.load(task.weights, weights_only=True))
    last = network.classifier[-1]
    network.classifier[-1] = nn.Linear(last.in_features, task.num_classes)
    return network


def open_images(task: Task, part: str) -> datasets.ImageFolder:
    """Return the images of train or val, resized and normalized as the weights need it."""
    shorter = task.image_size if task.weights is None else round(task.image_size / _CROP)
    steps = [
        transforms.Resize(shorter),
        transforms.CenterCrop(task.image_size),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    return datasets.ImageFolder(f"{task.folder}/{part}", transforms.Compose(steps))
