"""The end of a process without the interpreter's cleanup."""

import subprocess
import sys

PROGRAM = """
import atexit, sys, threading, time
from trialrun.fast_exit import FastExit

class Finalized:
    def __del__(self):
        print("finalized")

fast_exit = FastExit()
atexit.register(print, "handler")
alive = Finalized()
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
sys.stdout.write("buffered")
fast_exit.exit_code = 5
sys.exit(5)
"""


def test_fast_exit_runs_handlers_but_no_finalizers() -> None:
    """Threads, exit handlers and buffered output are completed; objects are not finalized."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert ended.returncode == 5
    assert ended.stdout == "bufferedthread\nhandler\n"
