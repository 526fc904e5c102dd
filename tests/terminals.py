"""A terminal for programs under test: a pseudo-terminal of a given width."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from dataclasses import dataclass

_CURSOR_UP = "\x1b[1A"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_COLORS = re.compile(r"\x1b\[[0-9;]+m")


@dataclass(frozen=True)
class Shown:
    """What a program wrote to its terminal, with its exit code."""

    code: int
    text: str

    @property
    def has_colors(self) -> bool:
        """Whether it set a color or a style."""
        return _COLORS.search(self.text.replace("\x1b[0m", "")) is not None

    @property
    def frames(self) -> list[str]:
        """All lines that were ever visible, those that were written again included."""
        plain = _ESCAPES.sub("", self.text)
        return [line for line in re.split(r"[\r\n]+", plain) if line]

    @property
    def screen(self) -> list[str]:
        """The lines that are left at the end."""
        lines = [""]
        for part in re.split(r"(\n|\x1b\[1A|\x1b\[2K|\r)", self.text):
            if part == "\n":
                lines.append("")
            elif part == _CURSOR_UP:
                lines.pop()
            elif part == "\x1b[2K":
                lines[-1] = ""
            elif part != "\r" and (plain := _ESCAPES.sub("", part)):
                lines[-1] = plain
        return lines


def run_in_terminal(
    command: list[str],
    *,
    width: int = 80,
    variables: dict[str, str] | None = None,
    interrupt_at: str = "",
) -> Shown:
    """Run a program to its end in a terminal; send SIGINT once it has shown `interrupt_at`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    kept = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    environment = {**kept, "TERM": "xterm-256color", **(variables or {})}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    written = b""
    while chunk := _read(ours):
        written += chunk
        if interrupt_at and interrupt_at.encode() in written:
            interrupt_at = ""
            process.send_signal(signal.SIGINT)
    os.close(ours)
    return Shown(process.wait(), written.decode().replace("\r\n", "\n"))


def _read(descriptor: int) -> bytes:
    """Return what was written; nothing once the program has closed the terminal (EIO on Linux)."""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""
