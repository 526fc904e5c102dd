"""Settings of a training run: those that determine its results, and those of its MLflow run.

The first group has the names, defaults and ranges of Azure ML designer's *Train PyTorch Model*.
"""

from dataclasses import dataclass

from trialrun.config.data import LabelConfig
from trialrun.config.settings import (
    AUTO_TEXT,
    OFF_TEXT,
    ON_TEXT,
    SMALLEST_POSITIVE_DOUBLE,
    as_texts,
    device_setting,
    group_column_setting,
    group_pattern_setting,
    setting,
)
from trialrun.config.train_checks import check_first_size, check_warm_up, parse_value_range
from trialrun.errors import redact_credentials

# Settings of the same length in steps, in epochs, and as a fraction of the run.
WARM_UP_LENGTHS = ("warmup_steps", "warmup_epochs", "warmup_fraction")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(LabelConfig):
    """Settings of a training run; `build_config` builds and checks it."""

    model: str = setting(
        "resnet18",
        "torchvision name of the network (`trialrun model list`), or a model to continue from: a "
        "model directory (trained or untrained, trialrun's or Azure's), models:/NAME/VERSION, "
        "models:/NAME@alias or runs:/ID/model.",
        path=True,
    )
    train_data: str = setting(
        "sample:digits",
        "Labelled training images: a folder with one sub-folder per class, an ImageDirectory, a "
        "folder with metadata.csv, .jsonl or .parquet, a folder with these in train, val and test, "
        "an archive, a URI, or sample:digits.",
        searchable=False,
        path=True,
    )
    valid_data: str | None = setting(
        None,
        "Labelled validation images; none takes the folder val of train_data, or splits "
        "train_data.",
        searchable=False,
        path=True,
    )
    epochs: int = setting(5, "Number of passes over the training images.", low=1)
    batch_size: int = setting(16, "Images per training step and rank.", low=1, logarithmic=True)
    learning_rate: float | str = setting(
        0.001,
        "Peak learning rate of the optimizer; auto finds one with a range test on the training "
        "images before the first epoch.",
        low=SMALLEST_POSITIVE_DOUBLE,
        logarithmic=True,
        auto=True,
    )
    random_seed: int = setting(
        1, "Seed of image order, initial weights, augmentation and split.", searchable=False
    )
    patience: int = setting(
        3,
        "Stop after this many consecutive epochs without a lower validation loss; epochs that "
        "train only the last layer first (freeze_epochs), or smaller images (progressive_resize), "
        "do not count.",
        low=1,
    )

    valid_fraction: float = setting(
        0.2,
        "Fraction of train_data used for validation if there are no validation images.",
        low=1e-6,
        lt=1,
        searchable=False,
    )
    group_column: str | None = group_column_setting(
        "stay on one side of the split", searchable=False
    )
    group_pattern: str | None = group_pattern_setting(
        "stay on one side of the split", searchable=False
    )
    image_size: int | str = setting(
        "auto",
        "Height and width of the network's input in pixels; images are resized to it. auto is the "
        "size that the initial weights were trained at (224 for random weights), or less if the "
        "images are smaller and the network accepts it.",
        low=1,
        high=4096,
        auto=True,
    )
    progressive_resize: int | str = setting(
        OFF_TEXT,
        "Train on smaller images first, with about 0.55 of the operations: a number is the first "
        "size in pixels, on is half of image_size, or more if the network needs it. The first half "
        "of the epochs has this size, the last third has image_size, and sizes grow between them. "
        "The learning rate falls and patience counts in the last third only. Validation always has "
        "image_size.",
        low=1,
        high=4096,
        words=(OFF_TEXT, ON_TEXT),
    )
    fit: str = setting(
        "auto",
        "How an image fits into the square of image_size: crop cuts off what is outside the "
        "central square, squash changes the aspect ratio, pad adds borders of the mean color. auto "
        "is that of the initial weights, else crop.",
        choices=("auto", "crop", "squash", "pad"),
    )
    value_range: str | None = setting(
        None,
        "Values that become black and white in files of more than 8 bits, as LOW:HIGH (0:4095 for "
        "12 bits); auto measures them on the training images. none is that of the initial weights, "
        "else the range of the file's bits.",
        pattern=r"auto|-?\d{1,9}:-?\d{1,9}",
        pattern_help="LOW:HIGH | auto",
        searchable=False,
    )
    augment: str = setting(
        "none",
        "Augmentation of training images: flip is a random horizontal flip, standard a random "
        "resized crop of the whole image and flip, strong adds TrivialAugment.",
        choices=("none", "flip", "standard", "strong"),
    )
    transforms: str | None = setting(
        None,
        "List of transforms: the JSON file or TransformationDirectory of Azure's Init Image "
        "Transformation. Random... entries apply in training only; a list with them replaces "
        "augment.",
        searchable=False,
        path=True,
    )
    optimizer: str = setting(
        "sgd", "Optimizer: sgd (with Nesterov momentum 0.9) or adamw.", choices=("sgd", "adamw")
    )
    weight_decay: float = setting(1e-4, "Weight decay of the optimizer.", low=0, logarithmic=True)
    decay_norms: bool = setting(
        True,
        "Apply weight decay to biases and normalization layers too (as Azure ML does).",
    )
    clip_grad_norm: float | str | None = setting(
        "auto",
        "Clip the gradient norm to this value; none does not clip. auto is 1 for a new last layer "
        "on pretrained weights, else none.",
        low=SMALLEST_POSITIVE_DOUBLE,
        logarithmic=True,
        auto=True,
    )
    schedule: str = setting(
        "cosine",
        "Learning rate schedule; cosine and polynomial (power 2, as in Azure ML) fall to 0 over "
        "the run. onecycle rises from 1/25 of the rate over the warm-up, which is 0.3 of the run "
        "unless set, and falls to 1/10,000 of its start.",
        choices=("cosine", "constant", "polynomial", "onecycle"),
    )
    warmup_steps: int = setting(
        0, "Number of optimizer steps of linear learning rate warm-up.", low=0
    )
    warmup_epochs: float = setting(
        0.0,
        "Length of the warm-up in epochs (0.5 is half an epoch), the unit of Azure ML designer's "
        "warmup_steps. Set this or warmup_steps.",
        low=0,
    )
    warmup_fraction: float = setting(
        0.0,
        "Length of the warm-up as a fraction of the run's steps. Set one of the three lengths.",
        low=0,
        lt=1,
    )
    label_smoothing: float = setting(
        0.0,
        "Label smoothing: fraction of the target probability spread over all classes.",
        low=0,
        lt=1,
    )
    class_weights: str = setting(
        "none",
        "Class weights of the loss: balanced weights each class by the inverse of its frequency.",
        choices=("none", "balanced"),
    )
    class_sampling: str = setting(
        "natural",
        "Training images of an epoch: natural uses each image once; balanced draws as many from "
        "every class, repeating images of small classes and leaving out some of large ones.",
        choices=("natural", "balanced"),
    )
    mixup: float = setting(0.0, "Alpha of the Beta distribution of MixUp; 0 is off.", low=0)
    cutmix: float = setting(0.0, "Alpha of the Beta distribution of CutMix; 0 is off.", low=0)
    ema: float = setting(
        0.0,
        "Decay of an exponential moving average of the weights; 0 is off. The averaged weights are "
        "validated and saved. The decay at step n is at most (1 + n) / (10 + n).",
        low=0,
        lt=1,
    )
    freeze: str = setting(
        "none",
        "Layers to freeze: backbone trains only the last layer.",
        choices=("none", "backbone"),
    )
    freeze_epochs: int | str = setting(
        "auto",
        "Number of first epochs that train only the last layer; the others train all layers. auto "
        "is three fifths of the epochs for a new last layer on pretrained weights, else 0.",
        low=0,
        auto=True,
    )
    head_start: str = setting(
        "auto",
        "Start of a new last layer: random, or probe (logistic regression on the features of the "
        "layers before it, which costs one forward pass); auto is probe for pretrained weights.",
        choices=("auto", "random", "probe"),
    )
    batch_norm: str = setting(
        "auto",
        "Statistics that batch norm uses in training: batch (those of the batch), or frozen (those "
        "of the initial weights); auto is frozen for a new last layer on pretrained weights.",
        choices=("auto", "batch", "frozen"),
    )
    layer_decay: float = setting(
        1.0,
        "Factor by which the learning rate decreases from each block of layers to the one before "
        "it, from the last layer to the input; 1 is off.",
        low=SMALLEST_POSITIVE_DOUBLE,
        high=1,
    )
    dropout: float | None = setting(
        None,
        "Dropout probability of all dropout layers; none keeps that of the network.",
        low=0,
        lt=1,
    )
    weights: str | None = setting(
        "auto",
        "Initial weights: auto (torchvision's for a network by name and images of at least 96 "
        "pixels, if they are in torch's cache or can be downloaded within 20 s; those of a model "
        "directory), none (random, or those of the model directory), default (torchvision's), a "
        "file (.safetensors, or a state dict or checkpoint of torch.save), or a trained model as "
        "for `model`.",
        auto=True,
        searchable=False,
        path=True,
    )
    precision: str = setting(
        "auto",
        "Number format of training; auto is bf16 if it is faster for this network on this "
        "hardware, else fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    device: str = device_setting(
        "Device to train on; auto is CUDA if available, else MPS, else the CPU.", searchable=False
    )
    tf32: bool = setting(True, "Allow TF32 matmul and convolution on CUDA.", searchable=False)
    compile: bool = setting(
        False,
        "Compile the network with torch.compile; worthwhile only for long runs on a GPU.",
        searchable=False,
    )
    scale_learning_rate: bool = setting(
        False,
        "Multiply the learning rate by the number of ranks (as Azure ML does).",
        searchable=False,
    )
    max_minutes: float | None = setting(
        None,
        "Stop after the current epoch once this many minutes have passed.",
        low=SMALLEST_POSITIVE_DOUBLE,
        searchable=False,
    )
    min_delta: float = setting(
        0.0, "Smallest decrease of the validation loss that counts as an improvement.", low=0
    )
    min_gain: float = setting(
        0.0,
        "Stop if the remaining epochs are expected to lower the best validation loss by less; 0 is "
        "off. Extrapolates `patience` epochs and those before: a falling schedule may bring more.",
        low=0,
    )
    accumulate_steps: int | str = setting(
        1,
        "Number of parts in which a batch is computed, whose gradients are added up (gradient "
        "accumulation); more parts need less memory. auto computes whole batches, and more parts "
        "only if they do not fit. Batch norm sees one part at a time.",
        low=1,
        auto=True,
        searchable=False,
    )
    data_mode: str = setting(
        AUTO_TEXT,
        "Decoded images: cache keeps them on the disk, and fails if they do not fit; stream "
        "decodes them in every epoch. auto is cache if the decoded images fit into the cache.",
        choices=(AUTO_TEXT, "cache", "stream"),
        searchable=False,
    )
    strict: bool = setting(
        False, "Fail on an image that cannot be read, instead of skipping it.", searchable=False
    )

    smoke: bool = setting(
        False,
        "Try the whole path in seconds, before a long run: two batches of training and of "
        "validation, the records, the model's upload, and scoring with it. The run is tagged "
        "smoke_test and registers nothing.",
        searchable=False,
    )

    experiment: str | None = setting(
        None,
        "MLflow experiment; none is MLflow's default experiment.",
        pattern=r"(?s).{1,256}",  # the width of MLflow's columns; SQLite would not enforce it
        pattern_help="text of at most 256 characters",
        searchable=False,
    )
    run_name: str | None = setting(
        None,
        "MLflow run name; none lets MLflow generate one.",
        pattern=r"(?s).{1,250}",
        pattern_help="text of at most 250 characters",
        searchable=False,
    )
    register_as: str | None = setting(
        None,
        "Registered model that the trained model becomes a new version of; none does not register "
        "it.",
        # MLflow rejects / and : only after training. It cannot look up names with @, ? or #, and
        # drops tabs and line breaks.
        pattern=r"(?!\.$|\.\.)[^/:@?#\x00-\x1f]{1,256}",
        pattern_help="text of at most 256 characters without / : @ ? # and control characters",
        searchable=False,
    )
    offline: bool = setting(
        False,
        "Train without the tracking store: all records wait on disk until `trialrun sync`.",
        searchable=False,
    )
    flush_seconds: float = setting(
        60.0,
        "At the end, seconds to wait for a tracking server that does not answer; what could not be "
        "sent stays on disk for `trialrun sync`.",
        low=0,
        searchable=False,
    )
    checkpoint_dir: str | None = setting(
        None,
        "Folder of checkpoints and unsent records, one sub-folder per run; none is trialrun-runs "
        "beside a SQLite store, else the user's state folder.",
        searchable=False,
        path=True,
    )
    checkpoint_minutes: float = setting(
        5.0,
        "Minutes between checkpoints inside an epoch; each epoch also ends with one.",
        low=SMALLEST_POSITIVE_DOUBLE,
        searchable=False,
    )
    pytorch_flavor: bool = setting(
        False,
        "Log the model with MLflow's own pytorch flavor too, for programs that need "
        "mlflow.pytorch.load_model. That flavor is a pickle: loading it runs code from the file.",
        searchable=False,
    )
    checkpoint_artifacts: bool = setting(
        False,
        "Store the newest checkpoint as an artifact too, so that another machine can resume.",
        searchable=False,
    )
    report: bool = setting(
        True,
        "Store a report of the validation images with pictures and tables; trials get none.",
        searchable=False,
    )
    audit: bool = setting(
        False,
        "Add images to the report whose label is probably wrong; needs the extra [audit].",
        searchable=False,
    )

    def __post_init__(self) -> None:
        check_warm_up({name: getattr(self, name) for name in WARM_UP_LENGTHS})
        check_first_size(self.progressive_resize, self.image_size)
        self.parse_value_range()

    def parse_value_range(self) -> tuple[int, int] | None:
        """Return the ends of `value_range`; see `train_checks.parse_value_range`."""
        return parse_value_range(self.value_range)

    def params(self) -> dict[str, str]:
        """Return the settings by name, as texts."""
        return as_texts(self)

    def public_params(self) -> dict[str, str]:
        """Return `params` for MLflow, without users, passwords and signatures of URLs."""
        return {name: redact_credentials(text) for name, text in as_texts(self).items()}
