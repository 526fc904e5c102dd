"""Serving speed under 16 clients: `trialrun serve` and `mlflow models serve` on the same model.

    python -m benchmarks.serving [--seconds 5] [--rounds 7] [--engines torch-fp32 ...]
                                 [--memory-seconds 60]

ResNet-18 at 224 pixels with random weights; JPEG photos of about 400 by 350 pixels. The clients
(`benchmarks.serving_client`) run on the same cores as the servers. Both servers run all the time
and are loaded in turns, so that other programs slow them down equally; figures and ratios are
medians over the rounds. MLflow's requests hold one image as base64 in `inputs`, trialrun's the
bytes of the file. `CPU` is the server's processor time per image, which other programs change less.

`limit` is what evaluation reaches on pixels that are in memory, in batches of the mean size that
the server formed, without HTTP and decoding. `shared` is the limit with decoding on the same cores:
1 / (1 / limit + 1 / decoding).
"""

import argparse
import base64
import contextlib
import json
import os
import pickle
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.photos import write_photos
from benchmarks.table import format_table, make_heading
from trialrun.config.engines import OPENVINO_INT8, TORCH_FP32
from trialrun.engine.compute.openmp import limit_spinning
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription, write_model_directory
from trialrun.models.weights.serialization import serialize_state
from trialrun.models.zoo.networks import build_network
from trialrun.scoring.batching import plan_batches
from trialrun.scoring.engines.build import build_engine
from trialrun.scoring.open import open_network
from trialrun.scoring.parity import decode_images
from trialrun.scoring.pipeline import score_batches
from trialrun.serving.package import add_serving_files

SIZE, NUM_PHOTOS, NUM_CLASSES, NUM_CLIENTS = 224, 256, 10, 16
NETWORK = "resnet18"
MLFLOW, TRIALRUN = "mlflow models serve", "trialrun serve"
COLUMNS = (
    "engine", "server", "images/s", "p50, ms", "p99, ms", "errors", "CPU, ms", "mean batch",
    "ratio", "limit", "of limit", "decoding", "of shared",
)  # fmt: skip
_START_SECONDS = 120
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients measured, and the mean batch of the server if it says."""

    images_per_second: float
    p50_ms: float
    p99_ms: float
    num_errors: int
    cpu_ms: float
    mean_batch: float


def write_models(folder: Path, photos: Sequence[bytes], engines: Sequence[str]) -> dict[str, Path]:
    """Write a servable model directory for each engine; all have the same weights."""
    torch.manual_seed(0)
    network = build_network(NETWORK, NUM_CLASSES, image_size=SIZE).eval()
    classes = tuple(f"class {number}" for number in range(NUM_CLASSES))
    plain = ModelDescription(NETWORK, {}, classes, Preprocessing(SIZE))
    classifier = ImageClassifier(network, classes, Preprocessing(SIZE)).eval()
    folders = {}
    for engine in engines:
        path = folders[engine] = folder / engine
        path.mkdir()
        is_plain = engine == TORCH_FP32
        images = decode_images(classifier.preprocessing, photos[:64])
        files = {} if is_plain else build_engine(engine, classifier, images)
        described = plain if is_plain else replace(plain, engine=engine)
        write_model_directory(path, described, serialize_state(network.state_dict()), files)
        add_serving_files(path, described, model_id="m-0", run_id="0")
    return folders


@contextlib.contextmanager
def run_server(name: str, model: Path, log: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Run a server in the block; yield its port and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "trialrun", "serve", str(model), "--port", str(port)]
    if name == MLFLOW:
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model)]
        command += ["--env-manager", "local", "--port", str(port)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    store = f"sqlite:///{log.parent / 'mlflow.db'}"
    environment = os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": store}
    with log.open("a") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, cwd=log.parent
        )
        try:
            _wait_until_up(port, process, log)
            yield port, _find_server(process)
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_up(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
            return
        time.sleep(0.1)
    raise RuntimeError(log.read_text())


def _find_server(process: "subprocess.Popen[bytes]") -> psutil.Process:
    """Return the process with the most memory: MLflow's server is a child."""
    parent = psutil.Process(process.pid)
    processes = [parent, *parent.children(recursive=True)]
    return max(processes, key=lambda item: item.memory_info().rss)


def write_requests(folder: Path, name: str, photos: Sequence[bytes]) -> Path:
    """Write the requests of the clients of a server."""
    requests = []
    for photo in photos:
        path, kind, body = "/predict", "image/jpeg", photo
        if name == MLFLOW:
            path, kind = "/invocations", "application/json"
            body = json.dumps({"inputs": [base64.b64encode(photo).decode()]}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    file = folder / f"{name.split()[0]}.requests"
    file.write_bytes(pickle.dumps(requests))
    return file


def apply_load(port: int, requests: Path, seconds: float) -> dict[str, Any]:
    """Run the clients; return what they print."""
    command = [sys.executable, "-m", "benchmarks.serving_client", str(port), str(requests)]
    command += [str(seconds), "--clients", str(NUM_CLIENTS)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values: dict[str, Any] = json.loads(output)
    return values


def read_batches(port: int) -> tuple[float, float]:
    """Return the numbers of images and of batches that trialrun's server has computed."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    values = [re.search(rf"trialrun_batch_images_{part} (\S+)", text) for part in ("sum", "count")]
    return tuple(float(match[1]) for match in values if match)  # type: ignore[return-value]


def measure_server(
    name: str, port: int, process: psutil.Process, requests: Path, seconds: float
) -> Load:
    """Load a server for some seconds."""
    cpu, before = read_cpu_seconds(process), read_batches(port) if name == TRIALRUN else (0.0, 0.0)
    measured = apply_load(port, requests, seconds)
    after = read_batches(port) if name == TRIALRUN else (1.0, 1.0)
    return Load(
        measured["per_second"],
        measured["p50_ms"],
        measured["p99_ms"],
        sum(measured["errors"].values()),
        1000 * (read_cpu_seconds(process) - cpu) / measured["requests"],
        (after[0] - before[0]) / (after[1] - before[1]),
    )


def read_cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process."""
    times = process.cpu_times()
    return float(times.user + times.system)


def measure_limit(model: Path, photos: Sequence[bytes], batch_size: int) -> tuple[float, float]:
    """Return images/s of evaluation on decoded images, and of decoding alone."""
    network = open_network(model, CPU, lambda _: None)
    with ThreadPoolExecutor(count_threads()) as pool:
        started = time.perf_counter()
        pixels = list(pool.map(network.preprocessing.decode, photos))
        decoding = len(photos) / (time.perf_counter() - started)
    plan = plan_batches(network, batch_size)
    list(score_batches(network, pixels[:32], lambda image: image, plan))
    started = time.perf_counter()
    list(score_batches(network, pixels, lambda image: image, plan))
    return len(pixels) / (time.perf_counter() - started), decoding


def summarize(loads: Sequence[Load]) -> Load:
    """Return the median of each figure over the rounds, and the sum of the errors."""
    return Load(
        statistics.median(load.images_per_second for load in loads),
        statistics.median(load.p50_ms for load in loads),
        statistics.median(load.p99_ms for load in loads),
        sum(load.num_errors for load in loads),
        statistics.median(load.cpu_ms for load in loads),
        statistics.median(load.mean_batch for load in loads),
    )


def print_speeds(arguments: argparse.Namespace, folder: Path, photos: Sequence[bytes]) -> None:
    """Measure both servers with every engine and print the table."""
    models = write_models(folder, photos, arguments.engines)
    requests = {name: write_requests(folder, name, photos) for name in (MLFLOW, TRIALRUN)}
    rows: list[list[object]] = []
    for engine, model in models.items():
        rows += measure_engine(engine, model, requests, arguments, photos)
        sys.stderr.write(format_table(COLUMNS, rows[-2:]))
    heading = make_heading(f"Serving {NETWORK} at {SIZE} pixels to {NUM_CLIENTS} clients")
    sys.stdout.write(f"{heading}\n{format_table(COLUMNS, rows)}")


def measure_engine(
    engine: str,
    model: Path,
    requests: dict[str, Path],
    arguments: argparse.Namespace,
    photos: Sequence[bytes],
) -> list[list[object]]:
    """Return the rows of one engine."""
    loads: dict[str, list[Load]] = {name: [] for name in requests}
    limits = []
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(run_server(name, model, file.with_suffix(".log")))
            for name, file in requests.items()
        }
        for name, file in requests.items():
            apply_load(servers[name][0], file, arguments.seconds)
        for _ in range(arguments.rounds):
            for name, file in requests.items():
                loads[name].append(measure_server(name, *servers[name], file, arguments.seconds))
            batch = max(round(loads[TRIALRUN][-1].mean_batch), 1)
            limits.append(measure_limit(model, photos, batch))
    return format_rows(engine, loads, limits)


def format_rows(
    engine: str, loads: dict[str, list[Load]], limits: Sequence[tuple[float, float]]
) -> list[list[object]]:
    """Return the table's rows of one engine; the ratio is to MLflow's server, round by round."""
    mlflow, ours = summarize(loads[MLFLOW]), summarize(loads[TRIALRUN])
    rates = [load.images_per_second for load in loads[TRIALRUN]]
    ratio = statistics.median(
        rate / load.images_per_second for rate, load in zip(rates, loads[MLFLOW], strict=True)
    )
    of_limit = statistics.median(
        rate / limit for rate, (limit, _) in zip(rates, limits, strict=True)
    )
    of_shared = statistics.median(
        rate * (1 / limit + 1 / decoding)
        for rate, (limit, decoding) in zip(rates, limits, strict=True)
    )
    limit, decoding = (statistics.median(values) for values in zip(*limits, strict=True))
    derived = [ratio, limit, of_limit, decoding, of_shared]
    return [
        [engine, MLFLOW, *list_figures(mlflow), *[""] * 6],
        [engine, TRIALRUN, *list_figures(ours), ours.mean_batch, *derived],
    ]


def list_figures(load: Load) -> list[object]:
    """Return the columns that both servers have."""
    times = [load.images_per_second, load.p50_ms, load.p99_ms]
    return [*times, load.num_errors, load.cpu_ms]


def print_memory(arguments: argparse.Namespace, folder: Path, photos: Sequence[bytes]) -> None:
    """Load a server for a minute; print its memory and the slope over the second half."""
    engine = arguments.engines[0]
    model = write_models(folder, photos, [engine])[engine]
    requests = write_requests(folder, TRIALRUN, photos)
    samples: list[tuple[float, float]] = []
    with run_server(TRIALRUN, model, folder / "log") as (port, server), ThreadPoolExecutor(1) as p:
        apply_load(port, requests, 5)
        started = time.perf_counter()
        load = p.submit(apply_load, port, requests, arguments.memory_seconds)
        while not load.done():
            samples.append((time.perf_counter() - started, server.memory_info().rss / 1e6))
            time.sleep(0.5)
    half = np.array(samples[len(samples) // 2 :])
    slope = float(np.polyfit(half[:, 0], half[:, 1], 1)[0])
    sys.stdout.write(
        f"{arguments.memory_seconds:g} s of full load with {engine}, "
        f"{load.result()['requests']} images, errors {load.result()['errors']}: "
        f"{samples[0][1]:.0f} MB at the start, {samples[-1][1]:.0f} MB at the end, at most "
        f"{max(mb for _, mb in samples):.0f} MB; slope of the second half {slope:+.3f} MB/s\n"
    )


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", nargs="*", default=[TORCH_FP32, OPENVINO_INT8])
    parser.add_argument("--memory-seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = write_photos(Path(scratch, "photos"), NUM_PHOTOS, seed=1)
        photos = [file.read_bytes() for file in sorted(path.rglob("*.jpg"))]
        if arguments.rounds:
            Path(scratch, "speed").mkdir()
            print_speeds(arguments, Path(scratch, "speed"), photos)
        if arguments.memory_seconds:
            Path(scratch, "memory").mkdir()
            print_memory(arguments, Path(scratch, "memory"), photos)
    return 0


if __name__ == "__main__":
    limit_spinning()
    sys.exit(main())
