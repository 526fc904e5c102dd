"""The trainers: their packages, recipes and commands, and where they print the accuracy."""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.accuracy.sets import ImageSet
from benchmarks.environments import prepare_own_python, prepare_python

_PROGRAMS = Path(__file__).parent / "programs"
_ANNOUNCED = r"valid_accuracy=([\d.]+)"


@dataclass(frozen=True, slots=True)
class Job:
    """One process: a trainer's work on a set with a seed, and the folders it works in."""

    images: ImageSet
    seed: int
    folder: Path  # the images
    scratch: Path  # empty, the working folder
    environments: Path


@dataclass(frozen=True, slots=True)
class Trainer:
    """A trainer; `pattern` finds the validation accuracy in a line of its output."""

    name: str
    packages: tuple[str, ...]
    epochs: Mapping[str, int]  # by set: the length of its recipe, and the limit of a process
    make_command: Callable[["Trainer", Job], Sequence[str]]
    pattern: str = _ANNOUNCED
    accuracy_unit: float = 1.0  # of the printed accuracy: 0.01 for percent
    environment: Mapping[str, str] = field(default_factory=dict)  # {scratch} is filled in

    def find_python(self, environments: Path) -> Path:
        """Return the Python of its environment, which is made if it is missing."""
        if self.name == OURS:
            return prepare_own_python(environments)
        return prepare_python(self.packages, environments)


OURS = "trialrun"

# Those that docs/training-time.md recommends for small images; fine-tuning has the defaults.
_SMALL_IMAGES = "--optimizer adamw --label-smoothing 0.1 --warmup-fraction 0.1"
_OURS = {
    "digits": f"{_SMALL_IMAGES} --batch-size 48",
    "fashion": f"{_SMALL_IMAGES} --batch-size 64 --learning-rate 0.002",
    "photos": "",
}


def _make_trialrun_command(trainer: Trainer, job: Job) -> list[str]:
    images = job.images
    weights = images.weights or "none"
    return [
        str(trainer.find_python(job.environments)),
        *("-m", "trialrun", "train", "--register-as", "accuracy"),
        *("--train-data", f"{job.folder}/train", "--valid-data", f"{job.folder}/val"),
        *("--model", images.network, "--weights", str(weights), "--random-seed", str(job.seed)),
        *("--epochs", str(trainer.epochs[images.name])),
        *_OURS[images.name].split(),
    ]


def _make_program_command(program: str) -> Callable[[Trainer, Job], list[str]]:
    def make(trainer: Trainer, job: Job) -> list[str]:
        images = job.images
        task = {
            "folder": str(job.folder),
            "network": images.network,
            "num_classes": images.num_classes,
            "image_size": images.image_size,
            "weights": str(images.weights) if images.weights else None,
            "epochs": trainer.epochs[images.name],
            "seed": job.seed,
        }
        python = trainer.find_python(job.environments)
        return [str(python), str(_PROGRAMS / program), json.dumps(task)]

    return make


_TIMM_NETWORKS = {"resnet18": "resnet18", "mobilenet_v2": "mobilenetv2_100"}


def make_timm_trainer(train_py: Path) -> Trainer:
    """Return timm's train.py, with its defaults except a warm-up that fits the short runs."""

    def make(trainer: Trainer, job: Job) -> list[str]:
        images, python = job.images, trainer.find_python(job.environments)
        network, size = _TIMM_NETWORKS[images.network], images.image_size
        start = ["--crop-pct", "1.0"]
        if images.weights:
            file = job.environments / f"{network}.pth"
            if not file.exists():
                program = str(_PROGRAMS / "timm_weights.py")
                command = [str(python), program, str(images.weights), network, str(file)]
                subprocess.run(command, check=True)
            start = ["--pretrained", "--pretrained-path", str(file), "--batch-size", "16"]
            start += ["--head-init-scale", "0.001"]  # its random last layer ruins the first steps
        return [
            *(str(python), str(train_py), "--data-dir", str(job.folder), "--val-split", "val"),
            *("--model", network, "--num-classes", str(images.num_classes), "--device", "cpu"),
            *("--input-size", "3", str(size), str(size), "--seed", str(job.seed), "--no-aug"),
            *("--epochs", str(trainer.epochs[images.name]), "--workers", "2"),
            *("--warmup-epochs", "1", "--sched-on-updates"),
            *start,
        ]

    pattern = r"Test: \[ *(\d+)/\1\].*Acc@1:.*?\( *([\d.]+)\)"
    return Trainer("timm", ("timm",), {"fashion": 3, "digits": 6, "photos": 4}, make, pattern, 0.01)


# The numbers of epochs are the smallest with which the trainer reached the accuracies in pilots, so
# that no falling schedule is longer than it needs to be.
TRAINERS = (
    Trainer(
        OURS,
        (),
        {"fashion": 2, "digits": 2, "photos": 5},
        _make_trialrun_command,
        # the columns are train loss, valid loss and accuracy
        pattern=r"^Epoch \d+/\d+ +\S+ +\S+ +([\d.]+)",
        environment={
            "MLFLOW_TRACKING_URI": "sqlite:///{scratch}/mlflow.db",
            "TRIALRUN_CACHE": "{scratch}/cache",
        },
    ),
    Trainer(
        "Lightning",
        ("lightning",),
        {"fashion": 4, "digits": 5, "photos": 5},
        _make_program_command("lightning_trainer.py"),
    ),
    Trainer(
        "Hugging Face Trainer",
        ("transformers", "accelerate"),
        {"fashion": 2, "digits": 3, "photos": 4},
        _make_program_command("transformers_trainer.py"),
    ),
    Trainer(
        "fastai",
        ("fastai",),
        {"fashion": 2, "digits": 3, "photos": 4},
        _make_program_command("fastai_learner.py"),
    ),
    Trainer(
        "Ultralytics",
        ("ultralytics",),
        {"fashion": 4, "digits": 5, "photos": 5},
        _make_program_command("ultralytics_model.py"),
        environment={"YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": "{scratch}"},
    ),
)
