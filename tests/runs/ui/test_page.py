"""The address of MLflow's page, and whether it can read the view."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.servers import find_free_port
from trialrun.runs.ui.page import can_read_view, format_address
from trialrun.runs.ui.view import VIEW_MARKERS


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; yield the address."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def write_page(folder: Path, program: str) -> Path:
    """Write a page like MLflow's, with a program of this text."""
    path = folder / "static-files" / "static" / "js" / "main.0123abcd.js"
    path.parent.mkdir(parents=True)
    path.write_text(program)
    source = path.relative_to(folder).as_posix()
    (folder / "index.html").write_text(f'<script defer="defer" src="{source}"></script>')
    return folder


@pytest.mark.parametrize("num_missing", [0, 1])
def test_view_is_readable_if_the_program_has_its_names(tmp_path: Path, num_missing: int) -> None:
    """A version that renamed one of them would show an error or a wrong page."""
    program = " ".join(VIEW_MARKERS[num_missing:])
    with serve_folder(write_page(tmp_path, program)) as address:
        assert can_read_view(address) == (num_missing == 0)


def test_page_without_a_program_cannot_read_the_view(tmp_path: Path) -> None:
    """Such as the login of a proxy."""
    (tmp_path / "index.html").write_text("<form>password</form>")
    with serve_folder(tmp_path) as address:
        assert not can_read_view(address)


def test_address_that_does_not_answer_cannot_read_the_view() -> None:
    """The page is not needed to print its address."""
    assert not can_read_view(f"http://127.0.0.1:{find_free_port()}")


@pytest.mark.parametrize(
    ("experiment_id", "has_view", "expected"),
    [
        (
            "3",
            True,
            "/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=trialrun",
        ),
        ("3", False, "/#/experiments/3/runs?workflowType=machine_learning"),
        (None, False, "/#/experiments?workflowType=machine_learning"),
    ],
)
def test_address_opens_the_mode_for_model_training(
    experiment_id: str | None, has_view: bool, expected: str
) -> None:
    """MLflow's own default is the mode for GenAI."""
    found = format_address("http://localhost:5000/", experiment_id, has_view=has_view)
    assert found.startswith(f"http://localhost:5000{expected}")
