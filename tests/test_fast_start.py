"""Tests of the start of a command's process, and of its output streams at the end."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.http.servers import write_small_model
from trialrun import fast_start


def test_first_garbage_collection_freezes_loaded_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It exempts the existing objects from later collections and restores Python's thresholds."""
    usual = gc.get_threshold()
    monkeypatch.setattr(fast_start, "_LOADED_OBJECTS", usual[0] + 20_000)
    fast_start.defer_gc()
    try:
        assert gc.get_threshold()[0] == usual[0] + 20_000
        loaded = [[number] for number in range(usual[0] + 40_000)]
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() > len(loaded) // 2
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


_DEFERRED = """
import sys
from trialrun.fast_start import start_fast

start_fast()
import torch, torchvision
from torchvision.transforms import v2

assert "torch._dynamo" not in sys.modules
assert type(torchvision.__loader__) is type(torch.__loader__) is type(torchvision.__spec__.loader)
ones = torch.ones(1, 1, 4, 4)
assert v2.functional.resize(ones, [2]).shape == (1, 1, 2, 2)
boxes = torch.tensor([[0, 0.0, 0.0, 3.0, 3.0]])
assert torch.equal(torchvision.ops.roi_align(ones, boxes, 2), torch.ones(1, 1, 2, 2))
double = torch.compile(lambda value: 2 * value, backend="eager")
assert double(ones).sum() == 32
from torchvision.ops import roi_align
assert roi_align.__globals__["is_compile_supported"]("cpu") in (True, False)
assert "torch._dynamo.utils" in sys.modules
"""


def test_the_compiler_is_loaded_at_its_first_use() -> None:
    """Torchvision loads without it; operations on boxes and torch.compile work afterwards."""
    subprocess.run([sys.executable, "-c", _DEFERRED], check=True)


_TRAINED = """
import sys
from trialrun.cli import run_cli
from trialrun.fast_start import start_fast

start_fast()
assert run_cli(sys.argv[1:]) == 0
assert "torch" in sys.modules and "torch._dynamo" not in sys.modules
"""


def test_a_training_does_not_load_the_compiler(store: str, colors: Path) -> None:
    """Neither the optimizer, nor the fit of the last layer, nor the report needs it."""
    settings = ["--train-data", str(colors), "--model", "shufflenet_v2_x0_5", "--epochs", "1"]
    settings += ["--head-start", "probe"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
    subprocess.run(
        [sys.executable, "-c", _TRAINED, "train", *settings], env=environment, check=True
    )


_SCORED = """
import sys
from trialrun.cli import run_cli

assert run_cli(sys.argv[1:]) == 0
assert "torch" in sys.modules and "mlflow" not in sys.modules
"""


def test_a_folder_is_scored_without_mlflow(colors: Path, tmp_path: Path) -> None:
    """Importing it takes longer than scoring a few images."""
    model = write_small_model(tmp_path / "model")
    arguments = ["score", str(model), str(colors), "--output", str(tmp_path / "scored.csv")]
    subprocess.run([sys.executable, "-c", _SCORED, *arguments], check=True)


_SERVED = """
import json, os, signal, sys, threading, urllib.request
from trialrun.cli import run_cli

class Output:
    def write(self, text):
        if text.startswith("{"):
            threading.Thread(target=predict, args=(json.loads(text)["address"],)).start()
    def flush(self):
        pass

def predict(address):
    image = open(sys.argv[1], "rb").read()
    kind = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(address + "/predict", image, kind)
    print(urllib.request.urlopen(request).status, "mlflow" in sys.modules, file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)

sys.stdout = Output()
sys.exit(run_cli(["serve", sys.argv[2], "--port", "0", "--json"]))
"""


def test_a_folder_is_served_without_mlflow(colors: Path, tmp_path: Path) -> None:
    """Only `/invocations` imports it."""
    image = next(colors.rglob("*.png"))
    arguments = [str(image), str(write_small_model(tmp_path / "model"))]
    command = [sys.executable, "-c", _SERVED, *arguments]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "200 False" in ended.stderr.splitlines()


HELP = [sys.executable, "-m", "trialrun", "--help"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_output_to_a_full_disk_is_a_storage_error() -> None:
    """It prints two lines and exits with 6."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(HELP, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 6
    first, second = ended.stderr.splitlines()
    assert first.startswith("Error: StorageError: cannot write")
    assert second.startswith("Hint: Free some space")


def test_closed_pipe_ends_the_command_without_an_error() -> None:
    """`trialrun … | head` prints no error."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(HELP, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")
