"""System metrics of a run: the use of processor, memory, disk, network and GPU.

MLflow's own monitor asks the server before each sample, and stops for good if it does not answer.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from trialrun.tracking.records import make_metrics
from trialrun.tracking.replay import now_ms
from trialrun.tracking.writers import RecordWriter

PREFIX = "system/"
_DEFAULT_SECONDS = 10.0


class _Monitor:
    """Samples in a thread of its own, as MLflow's variables for system metrics say."""

    def __init__(self, writer: RecordWriter, first_step: int) -> None:
        from mlflow.environment_variables import (
            MLFLOW_SYSTEM_METRICS_NODE_ID,
            MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING,
            MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
        )

        node = MLFLOW_SYSTEM_METRICS_NODE_ID.get()
        self._prefix = PREFIX + (f"{node}/" if node else "")
        self._interval_seconds = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _DEFAULT_SECONDS
        self._num_samples = MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING.get() or 1
        self._writer = writer
        self._step = first_step
        self._monitors = _create_monitors()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trialrun-system", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            for _ in range(self._num_samples):
                for monitor in self._monitors:
                    monitor.collect_metrics()
                if self._is_stopping.wait(self._interval_seconds):
                    return
            self._log()

    def _log(self) -> None:
        """Log the mean of the samples."""
        metrics: dict[str, float] = {}
        for monitor in self._monitors:
            metrics |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        named = {self._prefix + name: value for name, value in metrics.items()}
        for record in make_metrics(named, self._step, now_ms()):
            self._writer.try_write(record)
        self._step += 1

    def stop(self) -> None:
        """Stop sampling and log the last sample; a run shorter than an interval has only that."""
        self._is_stopping.set()
        self._thread.join()
        self._log()


def _create_monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for gpu_monitor in (GPUMonitor, ROCMMonitor):
        with suppress(Exception):  # without such a GPU, or without its library
            return [*monitors, gpu_monitor()]
    return monitors


@contextmanager
def monitor_system(writer: RecordWriter, *, first_step: int = 0) -> Iterator[None]:
    """Log system metrics during the block; a run that is opened again continues their steps."""
    monitor = _Monitor(writer, first_step)
    try:
        yield
    finally:
        monitor.stop()
