"""A loop like that of Azure ML designer: images decoded in every epoch, fp32, one sync per step.

python designer_loop.py TRAIN VALID EPOCHS
"""

import copy
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

BATCH_SIZE, LEARNING_RATE, RANDOM_SEED = 16, 0.001, 1
NORMALIZE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TRAIN_STEPS = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
VALID_STEPS = [transforms.Resize(256), transforms.CenterCrop(224)]


def make_loader(folder: str, steps: list[object], *, shuffle: bool) -> DataLoader[object]:
    """Make a data loader for class folders."""
    transform = transforms.Compose([*steps, transforms.ToTensor(), NORMALIZE])
    images = datasets.ImageFolder(folder, transform)
    return DataLoader(images, batch_size=BATCH_SIZE, shuffle=shuffle)


def run_epoch(network: nn.Module, batches: DataLoader[object], optimizer: object = None) -> float:
    """Run one pass and return its mean loss; with an optimizer, train the network."""
    network.train(optimizer is not None)
    total = 0.0
    with torch.set_grad_enabled(optimizer is not None):
        for images, labels in batches:
            loss = nn.functional.cross_entropy(network(images), labels)
            if isinstance(optimizer, torch.optim.Optimizer):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += loss.item() * len(labels)
    return total / len(batches.dataset)  # type: ignore[arg-type]


def main(train: str, valid: str, epochs: int) -> None:
    """Train and save the weights of the best epoch."""
    torch.manual_seed(RANDOM_SEED)
    train_batches = make_loader(train, [*TRAIN_STEPS], shuffle=True)
    valid_batches = make_loader(valid, [*VALID_STEPS], shuffle=False)
    network = models.resnet18(num_classes=2)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    best_loss, best = float("inf"), {}
    for epoch in range(epochs):
        train_loss = run_epoch(network, train_batches, optimizer)
        valid_loss = run_epoch(network, valid_batches)
        print(epoch, train_loss, valid_loss, flush=True)
        if valid_loss < best_loss:
            best_loss, best = valid_loss, copy.deepcopy(network.state_dict())
    torch.save(best, "best.pth")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
