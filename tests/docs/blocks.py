"""The code blocks of README and the pages of docs/, and the commands in them.

A block of `bash` or `python` can be run as it is, unless the comment `<!-- not run: REASON -->` is
above it. A block of `yaml` whose first line is `# NAME` is the contents of a file.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"(?:^[ ]*<!-- not run: (?P<reason>.+?) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_SHELLS = ("bash", "console")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A code block of a page."""

    page: str
    language: str
    text: str
    reason: str | None  # why it is not run

    @property
    def is_run(self) -> bool:
        """Whether the tests run the block."""
        return self.language in ("bash", "python") and self.reason is None


def read_blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page in their order."""
    return [
        Block(
            page=name_page(page),
            language=match["language"],
            text=textwrap.dedent(match["text"]),
            reason=match["reason"],
        )
        for match in _BLOCK.finditer(page.read_text("utf-8"))
    ]


def name_page(page: Path) -> str:
    """Return the path of a page below the project's folder."""
    return page.relative_to(ROOT).as_posix()


def remove_blocks(text: str) -> str:
    """Return a page without its code blocks."""
    return _BLOCK.sub("", text)


def split_lines(text: str) -> Iterator[str]:
    """Yield the commands of a shell block: lines that continue are joined, comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def list_commands(program: str) -> list[tuple[str, list[str]]]:
    """Return the page and the arguments of every call of a program in blocks of shell commands."""
    return [
        (block.page, arguments)
        for page in PAGES
        for block in read_blocks(page)
        if block.language in _SHELLS
        for line in split_lines(block.text)
        for arguments in _find_calls(line.removeprefix("$ "), program.split())
    ]


def _find_calls(line: str, program: list[str]) -> Iterator[list[str]]:
    if program[-1] not in line or re.match(r"\s|.*[━…]", line):
        return
    words = shlex.split(line, comments=True)
    for start in range(len(words)):
        if words[start : start + len(program)] == program:
            yield words[start + len(program) :]
            return
