"""Duration of whole training processes: trialrun relative to other trainers on the same photos.

    python -m benchmarks.peers [--epochs 2,6] [--environments FOLDER] [--timm-train FILE]
        [--only timm] [--device cuda --model resnet50 --batch-size 256 --images 20000]

480 training and 120 validation photos of two classes; ResNet-18 from random weights at 224 pixels,
batches of 16. Every peer has its own virtual environment, made by uv with the same torch. All run
in turn on an idle machine. trialrun runs first and last: the difference of the two shows how much
the machine's speed drifts. Before its last run it runs with progressive_resize=on, which takes
fewer operations than the others. timm's `train.py` is not in its package: give the path of the file
from its repository, or timm is left out. The other programs train ResNet-18 on the CPU: with
another --device, --model or --batch-size, only trialrun and timm run.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.environments import (
    make_peer_variables,
    prepare_own_python,
    prepare_python,
    read_version,
)
from benchmarks.photos import write_photos
from benchmarks.table import format_table, make_heading
from trialrun.engine.compute.precision import resolve_compute

NUM_TRAIN, NUM_VALID = 480, 120
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Task:
    """What all trainers train, and on what; the defaults are those of every peer's program."""

    model: str = "resnet18"
    batch_size: int = 16
    device: str = "cpu"


TASK = Task()


@dataclass(frozen=True, slots=True)
class Peer:
    """A trainer: its name, the packages to install, and the command after the interpreter.

    `{photos}`, `{train}`, `{valid}`, `{epochs}`, `{folder}`, `{model}`, `{batch_size}` and
    `{device}` in the command are filled in.
    """

    name: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    is_tuned: bool = False
    is_ours: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def main_package(self) -> str:
        """The package whose version the table names."""
        return self.packages[0] if self.packages else "torch"


def make_command(name: str) -> tuple[str, ...]:
    """Return the command of a program in this folder, with its three arguments."""
    return (str(HERE / name), "{train}", "{valid}", "{epochs}")


OURS = Peer(
    "trialrun with its defaults, tracked and registered",
    ("trialrun",),
    tuple(
        "-m trialrun train --train-data {train} --valid-data {valid} --epochs {epochs} "
        "--weights none --model {model} --batch-size {batch_size} --device {device} "
        "--register-as photos".split()
    ),
    is_ours=True,
    environment={
        "MLFLOW_TRACKING_URI": "sqlite:///{folder}/mlflow.db",
        "TRIALRUN_CACHE": "{folder}/cache",
    },
)
RESIZING = replace(
    OURS,
    name="trialrun with progressive_resize=on",
    command=(*OURS.command, "--progressive-resize", "on"),
)
OTHERS = (
    Peer("Azure ML designer's loop", (), make_command("designer_loop.py")),
    Peer("Lightning", ("lightning",), make_command("lightning_trainer.py")),
    Peer(
        "Hugging Face Trainer",
        ("transformers", "accelerate"),
        make_command("transformers_trainer.py"),
    ),
    Peer("fastai", ("fastai",), make_command("fastai_learner.py")),
)


def make_timm_peers(train_py: Path, *, has_bf16: bool) -> Iterator[Peer]:
    """Yield timm's train.py with its defaults, and with options that are faster on this machine."""
    flags = (
        "--data-dir {photos} --val-split valid --model {model} --num-classes 2 --device {device} "
        "--batch-size {batch_size} --lr 0.001 --epochs {epochs} --warmup-epochs 0"
    )
    plain = (str(train_py), *flags.split())
    yield Peer("timm", ("timm",), plain)
    yield Peer("timm, channels last", ("timm",), (*plain, "--channels-last"), is_tuned=True)
    if has_bf16:  # emulated bf16 takes minutes per step
        fast = (*plain, "--channels-last", "--amp", "--amp-dtype", "bfloat16")
        yield Peer("timm, channels last, bf16", ("timm",), fast, is_tuned=True)


def find_python(peer: Peer, environments: Path) -> Path:
    """Return the Python that runs the peer; its environment is made if it is missing."""
    if peer.is_ours:
        return prepare_own_python(environments)
    return prepare_python(peer.packages, environments)


def measure_seconds(
    peer: Peer, python: Path, photos: Path, epochs: int, task: Task = TASK
) -> float:
    """Return the seconds of the whole process."""
    with tempfile.TemporaryDirectory(dir=photos.parent) as folder:
        values = {
            "photos": str(photos),
            "train": str(photos / "train"),
            "valid": str(photos / "valid"),
            "epochs": str(epochs),
            "folder": folder,
            **{name: str(value) for name, value in asdict(task).items()},
        }
        command = [str(python), *(part.format(**values) for part in peer.command)]
        env = make_peer_variables() | {
            k: text.format(**values) for k, text in peer.environment.items()
        }
        started = time.perf_counter()
        completed = subprocess.run(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        seconds = time.perf_counter() - started
    if completed.returncode:
        sys.exit(f"{peer.name} failed:\n{completed.stdout.decode()[-2000:]}")
    return seconds


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", default="2,6")
    parser.add_argument("--environments", type=Path, default=Path(".peers"))
    parser.add_argument("--timm-train", type=Path)
    parser.add_argument("--only", default="", help="run only peers with this text in their names")
    parser.add_argument("--model", default=TASK.model)
    parser.add_argument("--batch-size", type=int, default=TASK.batch_size)
    parser.add_argument("--device", default=TASK.device)
    parser.add_argument("--images", type=int, default=NUM_TRAIN, help="training photos")
    return parser.parse_args()


def list_peers(arguments: argparse.Namespace, task: Task) -> list[Peer]:
    """Return the processes in their order."""
    has_bf16 = resolve_compute(task.device, "auto").precision == "bf16"
    others = [*OTHERS] if task == TASK else []
    if arguments.timm_train is not None:
        others += make_timm_peers(arguments.timm_train.resolve(), has_bf16=has_bf16)
    return [OURS, *(peer for peer in others if arguments.only in peer.name), RESIZING, OURS]


def main() -> int:
    """Measure and print the tables."""
    arguments = parse_arguments()
    task = Task(arguments.model, arguments.batch_size, arguments.device)
    peers = list_peers(arguments, task)
    pythons = [find_python(peer, arguments.environments.absolute()) for peer in peers]
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as scratch:
        photos = Path(scratch) / "photos"
        write_photos(photos / "train", arguments.images, seed=1)
        write_photos(photos / "valid", NUM_VALID, seed=2)
        for epochs in map(int, arguments.epochs.split(",")):
            seconds = []
            for peer, python in zip(peers, pythons, strict=True):
                seconds.append(measure_seconds(peer, python, photos, epochs, task))
                print(f"{peer.name}: {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
            title = f"{arguments.images} photos, {task.model}, {epochs} epochs, whole processes"
            print_table(title, peers, pythons, seconds)
    return 0


def print_table(title: str, peers: list[Peer], pythons: list[Path], seconds: list[float]) -> None:
    """Print the seconds of all processes, and trialrun's relative to them."""
    columns = ("trainer", "version", "seconds", "ours / peer")
    ours = (seconds[0] + seconds[-1]) / 2
    body = [
        [peer.name, read_version(python, peer.main_package), peer_seconds, ours / peer_seconds]
        for peer, python, peer_seconds in zip(peers, pythons, seconds, strict=True)
    ]
    print(make_heading(title) + "\n" + format_table(columns, body), flush=True)
    tuned = [total for peer, total in zip(peers, seconds, strict=True) if peer.is_tuned]
    if tuned:
        # trialrun's last run is the closest in time, so it has the least drift.
        print(f"Last run of trialrun / fastest timm: {seconds[-1] / min(tuned):.2f}")
        ratio = seconds[peers.index(RESIZING)] / min(tuned)
        print(f"{RESIZING.name} / fastest timm: {ratio:.2f}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
