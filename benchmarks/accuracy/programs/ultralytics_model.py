"""Ultralytics' YOLO.train for classification with its defaults, on a network of torchvision.

Its own networks have no weights without a download from its site. The network is therefore
torchvision's, as for the others, in the class that its trainer expects. Optimizer, rates and
warm-up are its defaults (`optimizer=auto`); the augmentation is off, as for the others.
"""

import torch
from task import Task, announce, build_network, read_task
from torch import nn
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.nn.tasks import ClassificationModel


class TorchvisionModel(ClassificationModel):
    """A network of torchvision with the inputs and outputs of Ultralytics' own."""

    def __init__(self, task: Task) -> None:
        nn.Module.__init__(self)
        self.model = nn.Sequential(build_network(task))
        self.stride = torch.tensor([1])
        self.yaml = {"nc": task.num_classes, "channels": 3}
        self.names = {}
        self.task = "classify"

    def predict(self, x: torch.Tensor, *_: object, **__: object) -> object:
        """Return the logits; in evaluation mode, the probabilities and the logits."""
        logits = self.model(x)
        return logits if self.training else (logits.softmax(1), logits)


def announce_epoch(trainer: ClassificationTrainer) -> None:
    """Print the accuracy after an epoch's validation."""
    announce(float(trainer.metrics["metrics/accuracy_top1"]))


def main(task: Task) -> None:
    """Train with checkpoints."""

    class Trainer(ClassificationTrainer):
        def get_model(self, *_: object, **__: object) -> nn.Module:
            return TorchvisionModel(task)

    torch.manual_seed(task.seed)
    trainer = Trainer(
        overrides={
            "model": f"{task.network}.yaml",
            "data": task.folder,
            "epochs": task.epochs,
            "imgsz": task.image_size,
            "seed": task.seed,
            "device": "cpu",
            "workers": 0,
            "plots": False,
            "project": "runs",
            "fliplr": 0.0,
            "scale": 0.0,
            "auto_augment": None,
            "erasing": 0.0,
            "hsv_h": 0.0,
            "hsv_s": 0.0,
            "hsv_v": 0.0,
        }
    )
    trainer.add_callback("on_fit_epoch_end", announce_epoch)
    trainer.train()


if __name__ == "__main__":
    main(read_task())
