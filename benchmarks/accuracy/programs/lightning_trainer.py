"""Lightning's Trainer with Adam at 1e-3, as in its introduction and its example of fine-tuning.

From random weights: batches of 64. From pretrained weights: as the example, with batches of 8 and
features that are frozen (there: for the first five epochs).
"""

import lightning
import torch
from task import Task, announce, build_network, open_images, read_task
from torch.nn import functional as F
from torch.utils.data import DataLoader

SCRATCH_BATCH, TRANSFER_BATCH = 64, 8
LEARNING_RATE = 1e-3


class Classifier(lightning.LightningModule):
    """A network with cross entropy."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network = build_network(task)
        self.is_scratch = task.weights is None
        if not self.is_scratch:
            self.network.features.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        if self.is_scratch:
            return self.network(images)
        self.network.features.eval()
        with torch.no_grad():
            features = self.network.features(images)
        return self.network.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        """Log loss and accuracy of a batch."""
        images, labels = batch
        logits = self(images)
        self.log("valid_loss", F.cross_entropy(logits, labels))
        self.log("valid_accuracy", (logits.argmax(1) == labels).float().mean())

    def on_validation_epoch_end(self) -> None:
        """Print the accuracy."""
        if not self.trainer.sanity_checking:
            announce(float(self.trainer.callback_metrics["valid_accuracy"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam for the layers that are trained."""
        trained = self if self.is_scratch else self.network.classifier
        return torch.optim.Adam(trained.parameters(), lr=LEARNING_RATE)


def main(task: Task) -> None:
    """Train with checkpoints and the default logger."""
    lightning.seed_everything(task.seed)
    batch_size = SCRATCH_BATCH if task.weights is None else TRANSFER_BATCH
    trainer = lightning.Trainer(
        max_epochs=task.epochs, accelerator="cpu", enable_progress_bar=False
    )
    trainer.fit(
        Classifier(task),
        DataLoader(open_images(task, "train"), batch_size, shuffle=True),
        DataLoader(open_images(task, "val"), batch_size),
    )


if __name__ == "__main__":
    main(read_task())
