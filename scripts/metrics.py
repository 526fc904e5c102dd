"""The metrics of runs and what they mean, for the page docs/reference/metrics.md.

Tests compare the names with those that runs log.
"""

EPOCH_METRICS = {
    "train_loss": "mean loss of the epoch's training steps",
    "train_accuracy": "accuracy of the training images, as augmented, before each step",
    "valid_loss": "mean loss of the validation images after the epoch",
    "valid_accuracy": "accuracy of the validation images",
    "valid_top5_accuracy": "share of validation images whose label is among the five most probable "
    "classes; from five classes on",
    "learning_rate": "learning rate of the epoch's last step, in the last layer",
    "train_images_per_second": "training speed",
    "valid_images_per_second": "speed of validation",
    "data_wait_fraction": "share of the training time in which a step waited for images",
    "epoch_seconds": "duration of the epoch with its validation",
    "epochs_without_improvement": "epochs since the lowest validation loss; training stops when it "
    "reaches `patience`",
    "train_image_size": "height and width of the epoch's training images in pixels; only with "
    "[`progressive_resize`](../resizing.md)",
    "images_read": "training images that the epoch read",
}
SUMMARY_METRICS = {
    "best_epoch": "epoch with the lowest validation loss, whose weights the model has",
    "best_valid_loss": "validation loss of that epoch",
    "best_valid_accuracy": "validation accuracy of that epoch",
    "training_seconds": "duration of all epochs, those before a `resume` included",
    "num_checkpoints": "checkpoints that this process wrote",
    "checkpoint_wait_seconds": "time in which training waited for checkpoints",
    "checkpoint_write_seconds": "time in which a thread wrote checkpoints",
    "parity_seconds": "duration of the [parity check](../export.md#parity-before-registration)",
}
EVALUATION_METRICS = {
    "accuracy": "share of images whose most probable class is their label",
    "balanced_accuracy": "mean of the recalls of all classes",
    "macro_f1": "mean of the F1 scores of all classes",
    "log_loss": "mean of the negative logarithm of the label's probability, in nats",
    "coverage": "share of images that a version which abstains answers",
    "answered_error": "share of wrong answers among them",
    "precision/CLASS": "share of the images predicted as the class that belong to it",
    "recall/CLASS": "share of the class's images that are predicted as it",
    "f1/CLASS": "harmonic mean of precision and recall",
}
