"""Library calls and their caller: neither changes what the other computes or prints."""

import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

import trialrun
from tests.conftest import write_classes
from trialrun.engine.compute.torch_state import isolate_torch_state

SETTINGS: dict[str, Any] = {
    "model": "squeezenet1_1",  # has dropout, which draws from the global generator
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
}


def state() -> dict[str, object]:
    """What a library call must leave as it found it."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "modes": [
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            str(torch.get_default_device()),
        ],
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "tf32": [
            cuda.allow_tf32,
            cudnn.allow_tf32,
            torch.get_float32_matmul_precision(),
            cuda.fp32_precision,
        ],
        "cudnn": [cudnn.enabled, cudnn.benchmark, cudnn.deterministic],
        "environment": dict(os.environ),
        "logging": [logging.getLogger(name).level for name in ("mlflow", "mlflow.store.db.utils")],
    }


@contextmanager
def unusual_state() -> Iterator[None]:
    """Values that no library call sets by itself, put back afterwards."""
    with isolate_torch_state():
        torch.manual_seed(5)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        yield


@pytest.mark.usefixtures("store")
def test_calls_leave_the_process_as_it_was(colors: Path, tmp_path: Path) -> None:
    """Generators, modes, flags, environment and MLflow's logging are the caller's after each."""
    data, uri = str(colors), "models:/colors/1"
    calls: dict[str, Callable[[], Any]] = {
        "train": lambda: trialrun.train(train_data=data, register_as="colors", **SETTINGS),
        "score": lambda: trialrun.score(uri, data, str(tmp_path / "scored.csv")),
        "load_model": lambda: trialrun.load_model(uri),
        "preprocess": lambda: trialrun.preprocess(colors / "red" / "000.png", classifier),
        "evaluate": lambda: trialrun.evaluate(uri, data, draws=100),
        "promote": lambda: trialrun.promote(
            "colors", 1, data, min="accuracy=0", allow_overlap=True
        ),
        "reproduce": lambda: trialrun.reproduce(run_id),
        "search": lambda: trialrun.search(
            train_data=data, trials=1, storage=f"sqlite:///{tmp_path}/study.db", **SETTINGS
        ),
    }
    with unusual_state():
        run_id, classifier = calls["train"]().run_id, calls["load_model"]()
        for name, call in calls.items():
            before = state()
            call()
            assert state() == before, name


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two classes of ten pictures."""
    return write_classes(tmp_path / "small", {"blue": 10, "red": 10})


@contextmanager
def float64_by_default() -> Iterator[None]:
    """New tensors are float64 unless told otherwise."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def rounded_products() -> Iterator[None]:
    """Torch may round the factors of fp32 products, on CPUs too."""
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


Callers = dict[str, Callable[[], AbstractContextManager[object]]]
MODES: Callers = {  # of a thread
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
}
CALLERS: Callers = {
    **MODES,
    "float64": float64_by_default,
    "rounded products": rounded_products,
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("store")
def test_result_does_not_depend_on_the_caller(small: Path, precision: str) -> None:
    """Inside whatever mode the caller is in, training gives the same weights, bit for bit."""
    settings = {**SETTINGS, "precision": precision, "train_data": str(small)}
    alone = trialrun.train(**settings).weights_sha256
    for name, caller in CALLERS.items():
        with caller():
            assert trialrun.train(**settings).weights_sha256 == alone, name


@pytest.mark.usefixtures("store")
def test_scores_do_not_depend_on_the_caller(colors: Path, tmp_path: Path) -> None:
    """Bulk scoring answers alike in whatever mode the caller is, the pyfunc in a thread's modes."""
    result = trialrun.train(train_data=str(colors), **SETTINGS)
    uri, frame = str(result.model_uri), {"image": [(colors / "red" / "000.png").read_bytes()]}

    def scored() -> bytes:
        trialrun.score(uri, str(colors), str(tmp_path / "scored.csv"))
        return (tmp_path / "scored.csv").read_bytes()

    def served() -> list[object]:
        answer: list[object] = mlflow.pyfunc.load_model(uri).predict(frame).iloc[0].tolist()
        return answer

    scored_alone, served_alone = scored(), served()
    for name, caller in CALLERS.items():
        with caller():
            assert scored() == scored_alone, name
    for name, caller in MODES.items():
        with caller():
            assert served() == served_alone, name


@pytest.mark.usefixtures("store")
def test_threads_take_turns_and_train_as_alone(small: Path) -> None:
    """Two trainings in two threads have the weights that each has alone."""
    seeds = (1, 2)

    def sha(seed: int) -> str | None:
        return trialrun.train(train_data=str(small), random_seed=seed, **SETTINGS).weights_sha256

    alone = [sha(seed) for seed in seeds]
    together: dict[int, str | None] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: together.update({seed: sha(seed)}))
        for seed in seeds
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[seed] for seed in seeds] == alone
    assert alone[0] != alone[1]


@pytest.mark.usefixtures("store")
def test_names_of_runs_differ_between_calls(small: Path) -> None:
    """Restoring Python's generator does not make MLflow draw the same name twice."""
    runs = [trialrun.train(train_data=str(small), **SETTINGS).run_id for _ in range(2)]
    names = {mlflow.get_run(run_id).info.run_name for run_id in runs}
    assert len(names) == 2


WAITS = """
import os, signal, sys, threading, time
import trialrun
from trialrun.engine.compute.torch_state import isolate_torch_state

def compute():
    with isolate_torch_state():
        taken.set()
        time.sleep(100)

taken = threading.Event()
threading.Thread(target=compute, daemon=True).start()
taken.wait()
threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    trialrun.train(train_data=sys.argv[1], model="squeezenet1_1", batch_size=8)
except KeyboardInterrupt:
    print("interrupted")
os._exit(0)
"""


def test_waiting_for_a_turn_can_be_interrupted(store: str, small: Path) -> None:
    """Ctrl-C ends a call that waits for another thread's; it has opened no run."""
    done = subprocess.run(
        [sys.executable, "-u", "-c", WAITS, str(small)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "interrupted\n", done.stderr
    client = mlflow.MlflowClient(store)
    experiments = [each.experiment_id for each in client.search_experiments()]
    assert len(client.search_runs(experiments)) == 0


SILENT = """
import logging, sys
import trialrun
data, folder = sys.argv[1:]
trialrun.train(train_data=data, model="squeezenet1_1", epochs=1, batch_size=8, register_as="colors")
trialrun.train(train_data=data, model="squeezenet1_1", epochs=1, batch_size=8, register_as="colors")
trialrun.score("models:/colors/1", data, folder + "/scored.csv")
trialrun.load_model("models:/colors/1")
trialrun.evaluate("models:/colors/1", data, draws=100)
trialrun.promote("colors", 1, data, min="accuracy=0", allow_overlap=True)
trialrun.search(
    train_data=data, model="squeezenet1_1", epochs=1, batch_size=8, trials=2,
    learning_rate="1e-4:1e-2", storage=f"sqlite:///{folder}/study.db", register_as="found",
)
import mlflow
assert logging.getLogger("mlflow").level == logging.INFO
mlflow.utils.logging_utils.eprint("the end")
"""


@pytest.mark.slow
def test_calls_print_nothing(small: Path, tmp_path: Path) -> None:
    """No progress bar and no line of MLflow's, on a new database neither; its level is restored."""
    # Tests of the command line set it for the whole process.
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_LOGGING_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", SILENT, str(small), str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/new/mlflow.db"},
        cwd=tmp_path,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("", "the end\n")


class CacheEntry(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


@pytest.mark.usefixtures("store")
def test_a_level_that_the_caller_chose_stays(small: Path) -> None:
    """A program that has set the level of MLflow's logger gets its notices during calls as well."""
    logger, handler = logging.getLogger("mlflow"), CacheEntry()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        trialrun.train(train_data=str(small), **SETTINGS)
        assert logger.level == logging.DEBUG
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert any(record.levelno == logging.INFO for record in handler.records)
