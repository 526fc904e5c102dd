"""The settings of a training run: everything that decides its numbers, and how it is recorded.

The first group is the ancestor's (Azure ML designer, *Train PyTorch Model*), with its names,
defaults and ranges.
"""

from dataclasses import dataclass

from trialrun.config.settings import SMALLEST_POSITIVE_DOUBLE, as_texts, device_setting, setting
from trialrun.errors import InvalidParameterError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run's settings; build it with `from_values`, which checks them."""

    model: str = setting(
        "resnet18",
        "Network by torchvision's name, or a model to train on: a model directory (trained or not, "
        "ours or Azure's), models:/NAME/VERSION, models:/NAME@alias or runs:/ID/model.",
    )
    train_data: str = setting(
        "sample:digits",
        "Labelled images: a folder with one sub-folder a class, an ImageDirectory, a folder with "
        "metadata.csv, an archive of these, a URI, sample:digits.",
        searchable=False,
    )
    valid_data: str | None = setting(
        None, "Labelled images to validate on; none splits train_data.", searchable=False
    )
    epochs: int = setting(5, "Passes over the training images.", low=1)
    batch_size: int = setting(16, "Images in a training step.", low=1, logarithmic=True)
    learning_rate: float = setting(
        0.001,
        "Peak learning rate of the optimizer.",
        low=SMALLEST_POSITIVE_DOUBLE,
        logarithmic=True,
    )
    random_seed: int = setting(
        1, "Decides order, initial weights, augmentation and split.", searchable=False
    )
    patience: int = setting(
        3, "Epochs in a row without a lower validation loss before training stops.", low=1
    )

    valid_fraction: float = setting(
        0.2,
        "Share of train_data held out where valid_data is none.",
        low=1e-6,
        lt=1,
        searchable=False,
    )
    group_column: str | None = setting(
        None,
        "Column of the image list (a patient, say) whose images all go to one side of the split.",
        searchable=False,
    )
    group_pattern: str | None = setting(
        None,
        "Regular expression whose match in an image's name (its first group, if it has one) says "
        "which images go to one side of the split.",
        searchable=False,
    )
    image_size: int | str = setting(
        "auto",
        "Height and width in pixels that images are resized to; auto is the size of the initial "
        "weights' images, 224 for random ones, or less where the images are smaller and the "
        "network takes less.",
        low=1,
        high=4096,
        auto=True,
    )
    augment: str = setting(
        "none",
        "Random changes to training images: flip mirrors, standard crops and mirrors, strong "
        "adds TrivialAugment.",
        choices=("none", "flip", "standard", "strong"),
    )
    transforms: str | None = setting(
        None,
        "A list of transforms as Azure's Init Image Transformation writes it (the JSON file or its "
        "TransformationDirectory), in place of augment; Random... entries act in training only.",
        searchable=False,
    )
    optimizer: str = setting(
        "sgd", "sgd with Nesterov momentum 0.9, or adamw.", choices=("sgd", "adamw")
    )
    weight_decay: float = setting(1e-4, "Weight decay of the optimizer.", low=0, logarithmic=True)
    decay_norms: bool = setting(
        True, "Whether weight decay reaches biases and norms too, as the ancestor's does."
    )
    clip_grad_norm: float | None = setting(
        None,
        "Gradients are scaled down to this norm where theirs is larger.",
        low=SMALLEST_POSITIVE_DOUBLE,
        logarithmic=True,
    )
    schedule: str = setting(
        "cosine",
        "How the learning rate falls to 0 over the run; polynomial is the ancestor's, power 2.",
        choices=("cosine", "constant", "polynomial"),
    )
    warmup_steps: int = setting(
        0, "Optimizer steps over which the learning rate first rises linearly.", low=0
    )
    warmup_epochs: float = setting(
        0.0,
        "The same in epochs, the unit of Azure ML designer's warmup_steps (0.5 is half an epoch); "
        "set one of the two.",
        low=0,
    )
    label_smoothing: float = setting(
        0.0, "Share of the target spread over all classes.", low=0, lt=1
    )
    class_weights: str = setting(
        "none",
        "balanced weighs each class by the inverse of its share of the training images.",
        choices=("none", "balanced"),
    )
    mixup: float = setting(0.0, "Alpha of MixUp's Beta distribution; 0 is off.", low=0)
    cutmix: float = setting(0.0, "Alpha of CutMix's Beta distribution; 0 is off.", low=0)
    ema: float = setting(
        0.0,
        "Decay of an exponential moving average of the weights, which is then validated and kept; "
        "0 is off. The first steps decay faster: (1 + n) / (10 + n) at step n.",
        low=0,
        lt=1,
    )
    freeze: str = setting(
        "none", "backbone trains the last layer alone.", choices=("none", "backbone")
    )
    weights: str | None = setting(
        None,
        "Initial weights: none draws them, default downloads torchvision's, a file (.safetensors, "
        "or a state dict or checkpoint of torch.save), or a trained model as `model` takes it.",
        searchable=False,
    )
    precision: str = setting(
        "auto",
        "Arithmetic of training; auto is bf16 where the hardware computes this network faster in "
        "it, else fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    device: str = device_setting("Where to compute.", searchable=False)
    tf32: bool = setting(
        True, "fp32 on CUDA may round the factors of products to TF32.", searchable=False
    )
    compile: bool = setting(
        False,
        "Compile the network with torch.compile; pays on a GPU in long runs only.",
        searchable=False,
    )
    scale_learning_rate: bool = setting(
        False,
        "Multiply the learning rate by the number of ranks, as the ancestor does.",
        searchable=False,
    )
    max_minutes: float | None = setting(
        None,
        "Minutes of training after which the epoch under way is the last.",
        low=SMALLEST_POSITIVE_DOUBLE,
        searchable=False,
    )
    min_delta: float = setting(
        0.0, "How much lower a validation loss must be to count as lower.", low=0
    )
    strict: bool = setting(
        False, "An image that cannot be read is an error rather than skipped.", searchable=False
    )

    experiment: str | None = setting(
        None, "MLflow experiment; none takes MLflow's own default.", searchable=False
    )
    run_name: str | None = setting(
        None, "MLflow run name; none lets MLflow draw one.", searchable=False
    )
    register_as: str | None = setting(
        None,
        "Name under which the trained model is registered; none does not.",
        # MLflow would refuse / and : only once the model is trained, and find none by @ or ?.
        pattern=r"(?!\.$|\.\.)[^/:@?]+",
        pattern_help="text without / : @ and ?",
        searchable=False,
    )

    def __post_init__(self) -> None:
        if self.warmup_steps and self.warmup_epochs:
            raise InvalidParameterError(
                f"warmup_steps={self.warmup_steps} and warmup_epochs={self.warmup_epochs:g} are "
                "both set",
                "Set one of them: they are two units of the same warm-up.",
            )

    def params(self) -> dict[str, str]:
        """Name to text, as MLflow stores parameters."""
        return as_texts(self)
