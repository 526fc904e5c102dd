"""Tests that a library call and its caller do not affect each other's state or results."""

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
from trialrun.runs.api import api_call

SETTINGS: dict[str, Any] = {
    "model": "squeezenet1_1",  # has dropout, which draws from the global generator
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
}


def read_state() -> dict[str, object]:
    """Return the state that a library call must not change."""
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
def use_unusual_state() -> Iterator[None]:
    """Set values that a library call does not set itself, and restore them afterwards."""
    with isolate_torch_state():
        torch.manual_seed(5)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_calls_restore_the_state_of_the_process(colors: Path, tmp_path: Path) -> None:
    """Each call restores generators, modes, flags, environment and MLflow's logging."""
    data, uri = str(colors), "models:/colors/1"
    calls: dict[str, Callable[[], Any]] = {
        "train": lambda: trialrun.train(train_data=data, register_as="colors", **SETTINGS),
        "score": lambda: trialrun.score(uri, data, str(tmp_path / "scored.csv")),
        "load_model": lambda: trialrun.load_model(uri),
        "preprocess": lambda: trialrun.preprocess(colors / "red" / "000.png", classifier),
        "evaluate": lambda: trialrun.evaluate(uri, data),
        "promote": lambda: trialrun.promote(
            "colors", 1, data, min="accuracy=0", allow_overlap=True
        ),
        "reproduce": lambda: trialrun.reproduce(run_id),
        "search": lambda: trialrun.search(
            train_data=data, trials=1, storage=f"sqlite:///{tmp_path}/study.db", **SETTINGS
        ),
    }
    with use_unusual_state():
        run_id, classifier = calls["train"]().run_id, calls["load_model"]()
        for name, call in calls.items():
            before = read_state()
            call()
            assert read_state() == before, name


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two classes of ten images."""
    return write_classes(tmp_path / "small", {"blue": 10, "red": 10})


@contextmanager
def use_float64() -> Iterator[None]:
    """Make float64 the default dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def use_rounded_products() -> Iterator[None]:
    """Let torch round the factors of fp32 products, on CPUs too."""
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


Contexts = dict[str, Callable[[], AbstractContextManager[object]]]
MODES: Contexts = {  # of a thread
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
}
CALLER_CONTEXTS: Contexts = {
    **MODES,
    "float64": use_float64,
    "rounded products": use_rounded_products,
}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("store")
def test_result_does_not_depend_on_the_caller(small: Path, precision: str) -> None:
    """In any mode of the caller, training gives the same weights, bit for bit."""
    settings = {**SETTINGS, "precision": precision, "train_data": str(small)}
    alone = trialrun.train(**settings).weights_sha256
    for name, open_context in CALLER_CONTEXTS.items():
        with open_context():
            assert trialrun.train(**settings).weights_sha256 == alone, name


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_scores_do_not_depend_on_the_caller(colors: Path, tmp_path: Path) -> None:
    """Bulk scoring gives the same scores in any mode of the caller, the pyfunc in thread modes."""
    result = trialrun.train(train_data=str(colors), **SETTINGS)
    uri, frame = str(result.model_uri), {"image": [(colors / "red" / "000.png").read_bytes()]}

    def score_folder() -> bytes:
        trialrun.score(uri, str(colors), str(tmp_path / "scored.csv"))
        return (tmp_path / "scored.csv").read_bytes()

    def predict_served() -> list[object]:
        row: list[object] = mlflow.pyfunc.load_model(uri).predict(frame).iloc[0].tolist()
        return row

    expected_file, expected_row = score_folder(), predict_served()
    for name, open_context in CALLER_CONTEXTS.items():
        with open_context():
            assert score_folder() == expected_file, name
    for name, open_context in MODES.items():
        with open_context():
            assert predict_served() == expected_row, name


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_threads_take_turns_and_train_as_they_do_alone(small: Path) -> None:
    """Two trainings in two threads give the same weights as each one alone."""
    seeds = (1, 2)

    def train_weights(seed: int) -> str | None:
        return trialrun.train(train_data=str(small), random_seed=seed, **SETTINGS).weights_sha256

    alone = [train_weights(seed) for seed in seeds]
    together: dict[int, str | None] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: together.update({seed: train_weights(seed)}))
        for seed in seeds
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[seed] for seed in seeds] == alone
    assert alone[0] != alone[1]


@pytest.mark.usefixtures("store")
def test_run_names_differ_between_calls(small: Path) -> None:
    """Restoring Python's generator does not make MLflow draw the same name twice."""
    runs = [trialrun.train(train_data=str(small), **SETTINGS).run_id for _ in range(2)]
    names = {mlflow.get_run(run_id).info.run_name for run_id in runs}
    assert len(names) == 2


WAITING_PROGRAM = """
import os, signal, sys, threading, time
import trialrun
import trialrun.runs.training.run  # loaded here, so that the signal comes after slow imports
from trialrun.engine.compute.torch_state import isolate_torch_state

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

def compute():
    with isolate_torch_state():
        entered.set()
        time.sleep(100)

entered = threading.Event()
threading.Thread(target=compute, daemon=True).start()
entered.wait()
threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    trialrun.train(train_data=sys.argv[1], model="squeezenet1_1", batch_size=8)
except KeyboardInterrupt:
    print("interrupted")
os._exit(0)
"""


@pytest.mark.slow
def test_wait_for_another_call_can_be_interrupted(store: str, small: Path) -> None:
    """Ctrl-C ends a call that waits for one in another thread, before it opens a run."""
    completed = subprocess.run(
        [sys.executable, "-u", "-c", WAITING_PROGRAM, str(small)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert completed.stdout == "interrupted\n", completed.stderr
    client = mlflow.MlflowClient(store)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert len(client.search_runs(experiments)) == 0


SILENT_PROGRAM = """
import logging, sys
import trialrun
data, folder = sys.argv[1:]
trialrun.train(train_data=data, model="squeezenet1_1", epochs=1, batch_size=8, register_as="colors")
trialrun.train(train_data=data, model="squeezenet1_1", epochs=1, batch_size=8, register_as="colors")
trialrun.score("models:/colors/1", data, folder + "/scored.csv")
trialrun.load_model("models:/colors/1")
trialrun.evaluate("models:/colors/1", data)
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
    """Calls print no progress bar and no MLflow output, and restore MLflow's log level."""
    # Tests of the command line set it for the whole process.
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_LOGGING_LEVEL"}
    completed = subprocess.run(
        [sys.executable, "-c", SILENT_PROGRAM, str(small), str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/new/mlflow.db"},
        cwd=tmp_path,
        check=False,
    )
    assert (completed.stdout, completed.stderr) == ("", "the end\n")


def test_log_level_of_the_caller_is_kept() -> None:
    """If the program has set the level of MLflow's logger, MLflow logs during calls too."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        with api_call():
            assert logger.level == logging.DEBUG
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(level)
