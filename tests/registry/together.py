"""Processes that do the same at the same moment.

One process imports, which takes seconds, and forks. Each child connects for itself.
"""

import sys
from pathlib import Path

from tests.processes import run_program
from tests.registry.conftest import NUM_PROCESSES

_HEADER = """
import os, sys, time, traceback
from pathlib import Path
import mlflow

folder, num_processes = Path(sys.argv[1]), int(sys.argv[2])

def wait_for_all(number):
    (folder / f"ready{number}").touch()
    while len(list(folder.glob("ready*"))) < num_processes:
        time.sleep(0.001)
"""

_FOOTER = """
children = []
for number in range(1, num_processes + 1):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act(number)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def run_together(source: str, folder: Path) -> None:
    """Run `act(number)` of `source` in several processes, which may call `wait_for_all(number)`.

    Their numbers start at 1. An exception in one of them fails the test.
    """
    program = _HEADER + source + _FOOTER
    command = [sys.executable, "-c", program, str(folder), str(NUM_PROCESSES)]
    done = run_program(command, timeout=120)
    assert done.returncode == 0, done.stderr
