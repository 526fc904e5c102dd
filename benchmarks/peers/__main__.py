"""Whole processes against their peers on the same photos: ours over each of theirs, in one run.

    python -m benchmarks.peers [--epochs 2,6] [--environments FOLDER] [--timm-train FILE]
        [--only timm]

480 photos to learn from and 120 to judge by, of two classes; ResNet-18 from random weights at 224
pixels, batches of 16. Every peer has a virtual environment of its own, made by uv with the same
torch; all run in turn on an idle machine, ours first and last: shared machines drift, and how far
the two lie apart tells by how much. timm's `train.py` is not in its package: give the path of the
file out of its repository, or timm is left out.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.photos import write_photos
from benchmarks.table import heading, table
from trialrun.engine.compute.precision import resolve_compute

NUM_TRAIN, NUM_VALID = 480, 120
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Peer:
    """A trainer: its name, what is installed for it, and the command after the interpreter.

    `{photos}`, `{train}`, `{valid}`, `{epochs}` and `{folder}` in the command are filled in.
    """

    name: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    at_its_best: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def script(name: str) -> tuple[str, ...]:
    """A program of this folder with the three arguments it takes."""
    return (str(HERE / name), "{train}", "{valid}", "{epochs}")


OURS = Peer(
    "trialrun, at its defaults, tracked and registered",
    ("trialrun",),
    tuple(
        "-m trialrun train --train-data {train} --valid-data {valid} --epochs {epochs} "
        "--model resnet18 --register-as photos".split()
    ),
    environment={
        "MLFLOW_TRACKING_URI": "sqlite:///{folder}/mlflow.db",
        "TRIALRUN_CACHE": "{folder}/cache",
    },
)
OTHERS = (
    Peer("the ancestor's loop", (), script("ancestor.py")),
    Peer("Lightning", ("lightning",), script("lightning_trainer.py")),
    Peer("Hugging Face Trainer", ("transformers", "accelerate"), script("transformers_trainer.py")),
    Peer("fastai", ("fastai",), script("fastai_learner.py")),
)


def timm_peers(train_py: Path, *, has_bf16: bool) -> Iterator[Peer]:
    """The train.py of timm as it is, and with what makes it faster on this machine."""
    flags = (
        "--data-dir {photos} --val-split valid --model resnet18 --num-classes 2 --device cpu "
        "--batch-size 16 --lr 0.001 --epochs {epochs} --warmup-epochs 0"
    )
    plain = (str(train_py), *flags.split())
    yield Peer("timm", ("timm",), plain)
    yield Peer("timm, channels last", ("timm",), (*plain, "--channels-last"), at_its_best=True)
    if has_bf16:  # emulated it takes minutes a step
        fast = (*plain, "--channels-last", "--amp", "--amp-dtype", "bfloat16")
        yield Peer("timm, channels last, bf16", ("timm",), fast, at_its_best=True)


def interpreter(peer: Peer, environments: Path) -> Path:
    """The Python of the peer's own environment, made where it is missing."""
    if peer is OURS:
        return Path(sys.executable)
    folder = environments / "-".join(peer.packages or ("torch",))
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert uv, "uv is not installed: pip install uv"
        packages = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "numpy")]
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
        subprocess.run(make, check=True)
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        subprocess.run([*install, *packages, *peer.packages], check=True)
        (folder / "whole").touch()
    return python


def seconds_of(peer: Peer, python: Path, photos: Path, epochs: int) -> float:
    """How long the process took, from its start to its end."""
    with tempfile.TemporaryDirectory(dir=photos.parent) as folder:
        places = {
            "photos": str(photos),
            "train": str(photos / "train"),
            "valid": str(photos / "valid"),
            "epochs": str(epochs),
            "folder": folder,
        }
        command = [str(python), *(part.format(**places) for part in peer.command)]
        env = os.environ | {k: text.format(**places) for k, text in peer.environment.items()}
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{peer.name} failed:\n{done.stdout.decode()[-2000:]}")
    return seconds


def version_in(python: Path, peer: Peer) -> str:
    """The version of what the peer is, in its environment."""
    name = peer.packages[0] if peer.packages else "torch"
    asked = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.check_output([python, "-c", asked], text=True).strip()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", default="2,6")
    parser.add_argument("--environments", type=Path, default=Path(".peers"))
    parser.add_argument("--timm-train", type=Path)
    parser.add_argument("--only", default="", help="part of the names of those to run")
    chosen = parser.parse_args()
    has_bf16 = resolve_compute("cpu", "auto").precision == "bf16"
    others = [*OTHERS]
    if chosen.timm_train is not None:
        others += timm_peers(chosen.timm_train.resolve(), has_bf16=has_bf16)
    peers = [OURS, *(peer for peer in others if chosen.only in peer.name), OURS]
    pythons = [interpreter(peer, chosen.environments.absolute()) for peer in peers]
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as scratch:
        photos = Path(scratch) / "photos"
        write_photos(photos / "train", NUM_TRAIN, seed=1)
        write_photos(photos / "valid", NUM_VALID, seed=2)
        for epochs in map(int, chosen.epochs.split(",")):
            measure(peers, pythons, photos, epochs)
    return 0


def measure(peers: list[Peer], pythons: list[Path], photos: Path, epochs: int) -> None:
    """One table."""
    seconds = []
    for peer, python in zip(peers, pythons, strict=True):
        seconds.append(seconds_of(peer, python, photos, epochs))
        print(f"{peer.name}: {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    title = f"{NUM_TRAIN} photos, {epochs} epochs, whole processes"
    columns = ("trainer", "version", "seconds", "ours / theirs")
    ours = (seconds[0] + seconds[-1]) / 2
    body = [
        [peer.name, version_in(python, peer), taken, ours / taken]
        for peer, python, taken in zip(peers, pythons, seconds, strict=True)
    ]
    print(heading(title) + "\n" + table(columns, body), flush=True)
    if best := [taken for peer, taken in zip(peers, seconds, strict=True) if peer.at_its_best]:
        # Its neighbour in time: less of the drift is in it.
        print(f"Ours, the last, over timm's best: {seconds[-1] / min(best):.2f}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
