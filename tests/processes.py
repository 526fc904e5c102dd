"""Python programs in processes that start with the large libraries imported.

An interpreter takes several seconds of CPU time to import torch, MLflow and the other libraries. A
fork server imports them once for all tests of a pytest process; the programs import the rest.

Not for tests of the start of an interpreter, of launchers that read command lines, and of the
packages that are imported: the command line of these processes is that of the fork server.
"""

import atexit
import multiprocessing.util
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

_LIBRARIES = [
    "alembic.command",
    "filelock",
    "git",
    "matplotlib.pyplot",
    "mlflow",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.system_metrics.system_metrics_monitor",
    "optuna",
    "pandas",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "rich.console",
    "safetensors.torch",
    "scipy.stats",
    "sklearn.datasets",
    "sqlalchemy.dialects.sqlite",
    "torch",
    "torch.utils.data",
    "torchvision",
    "torchvision.transforms.v2",
    "typer",
    "xxhash",
]
_fork_server = multiprocessing.get_context("forkserver")
_fork_server.set_forkserver_preload(_LIBRARIES)
# The folder of the server's socket is chosen here, before a test has one whose path is too long.
multiprocessing.util.get_temp_dir()

Output = Connection | Path  # a pipe, or a file to append to


class ForkedProgram:
    """A running program, with those parts of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: Path | int | None = None,
        stderr: Path | int | None = None,
    ) -> None:
        """Start `python -m MODULE ...` or `python -c CODE ...` in a session of its own.

        Args:
            command: The command line; its first word, the interpreter, is not used.
            cwd: The folder to start in; by default the current one.
            env: All environment variables; by default those of this process.
            stdout: `subprocess.PIPE`, or a file; by default the output is not captured.
            stderr: As `stdout`.
        """
        outputs: dict[int, Output] = {}
        self.stdout = _open_output(1, stdout, outputs)
        self.stderr = _open_output(2, stderr, outputs)
        self._process = _fork_server.Process(
            target=_run_program,
            args=(list(command), str(cwd or Path.cwd()), dict(env or os.environ), outputs),
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        for output in outputs.values():
            if isinstance(output, Connection):
                output.close()

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended the process."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process; return its exit code."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked program", timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read the pipes to their ends and wait for the process."""
        with ThreadPoolExecutor(2) as pool:
            output, errors = pool.map(_read_rest, (self.stdout, self.stderr))
        self.wait(timeout)
        return output, errors

    def send_signal(self, number: int) -> None:
        """Send a signal to the process if it runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _open_output(
    number: int, target: Path | int | None, outputs: dict[int, Output]
) -> TextIO | None:
    """Add the new process's end of an output to `outputs`; return ours of a pipe."""
    if isinstance(target, Path):
        outputs[number] = target
    elif target == subprocess.PIPE:
        reader, outputs[number] = _fork_server.Pipe(duplex=False)
        with reader:
            return os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
    return None


def _read_rest(stream: TextIO | None) -> str:
    if stream is None or stream.closed:
        return ""
    with stream:
        return stream.read()


def run_program(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a program as `ForkedProgram` does; return its exit code and its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        for file in files:  # a process that is killed at once creates none
            file.touch()
        program = ForkedProgram(command, cwd=cwd, env=env, stdout=files[0], stderr=files[1])
        try:
            code = program.wait(timeout)
        finally:
            program.kill()
        output, errors = (file.read_text("utf-8") for file in files)
    return subprocess.CompletedProcess(command, code, output, errors)


def _run_program(
    command: list[str],
    folder: str,
    variables: dict[str, str],
    outputs: dict[int, Output],
) -> None:
    os.setsid()
    for number, output in outputs.items():
        _replace_descriptor(number, output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    multiprocessing.set_start_method(None, force=True)  # that of a new interpreter
    paths = variables.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [folder, *(path for path in paths if path)]
    try:
        _run_main(*command[1:])
    finally:
        atexit._run_exitfuncs()  # multiprocessing does not call them


def _replace_descriptor(number: int, output: Output) -> None:
    if isinstance(output, Path):
        opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    else:
        os.dup2(output.fileno(), number)
        output.close()


def _run_main(kind: str, name: str, *arguments: str) -> None:
    if kind == "-m":
        sys.argv = [name, *arguments]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return
    assert kind == "-c"
    sys.argv = ["-c", *arguments]
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(compile(name, "<string>", "exec"), main.__dict__)
