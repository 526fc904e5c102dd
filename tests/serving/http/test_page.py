"""The pages of the server, in a headless Chromium."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from scripts.browser import collect_errors, find_chromium, open_page
from tests.serving.http.servers import CLASSES, TOKEN, Server, encode_image, run_server
from tests.system.conftest import skip_unless_ci

pytestmark = pytest.mark.slow

DROP = """(texts => {
    const transfer = new DataTransfer();
    for (const [name, text] of Object.entries(texts)) {
        const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name));
    }
    document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, cancelable: true}));
})(%s)"""


@pytest.fixture
def page() -> Iterator[Page]:
    """A blank page of a browser."""
    command = find_chromium()
    if command is None:
        skip_unless_ci("Chromium is not installed (Debian: apt install chromium)")
    with open_page(command) as opened:
        yield opened


def drop_images(page: Page, images: dict[str, bytes]) -> None:
    """Drop files on the page."""
    texts = {name: base64.b64encode(data).decode() for name, data in images.items()}
    page.evaluate(DROP % texts)


def wait_for_results(page: Page, num_images: int) -> None:
    """Wait until so many images have a class or an error."""
    expect(page.locator(".label, li .error")).to_have_count(num_images, timeout=60_000)


def read_results(page: Page) -> dict[str, str]:
    """Return the text of each image's result, by file name."""
    texts: dict[str, str] = page.evaluate(
        """Object.fromEntries([...document.querySelectorAll('#images li')].map(
            item => [item.querySelector('.name').textContent,
                     item.querySelector('.result').innerText]))"""
    )
    return texts


def test_dropped_images_show_classes_and_confidences(server: Server, page: Page) -> None:
    """Each image has its label and probabilities as `/predict` returns them."""
    errors = collect_errors(page)
    images = {f"{number}.png": encode_image(seed=number) for number in range(6)}
    page.goto(f"http://127.0.0.1:{server.port}/")
    drop_images(page, images)
    wait_for_results(page, len(images))
    shown = read_results(page)
    assert set(shown) == set(images)
    for name, data in images.items():
        result = server.predict(data)
        assert shown[name].startswith(f"{result['label']} {100 * result['confidence']:.1f} %")
        for label in CLASSES:
            percent = f"{100 * result['probabilities'][label]:.1f} %"
            assert any(
                label in line and percent in line for line in shown[name].splitlines()[1:]
            ), shown
    assert errors == []


def test_chosen_files_and_bad_files_have_results(
    server: Server, page: Page, tmp_path: Path
) -> None:
    """A text file shows its reason and the image beside it its class; names are not markup."""
    image, text = tmp_path / "<img src=x onerror=alert(1)>.png", tmp_path / "notes.txt"
    image.write_bytes(encode_image())
    text.write_text("hello")
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.set_input_files("#files", [image, text])
    wait_for_results(page, 2)
    shown = read_results(page)
    assert shown[text.name] == "415: not an image, or damaged beyond recognition"
    assert shown[image.name].split()[0] in CLASSES
    assert page.locator(".name img").count() == 0


def test_page_asks_for_the_token(small_model: Path, tmp_path: Path, page: Page) -> None:
    """After a refusal, the token can be entered, and the next image is classified."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with run_server(small_model, tmp_path / "server", "--token-file", str(token)) as server:
        page.goto(f"http://127.0.0.1:{server.port}/")
        drop_images(page, {"first.png": encode_image()})
        wait_for_results(page, 1)
        assert read_results(page)["first.png"].startswith("401: ")
        page.fill("#token", TOKEN)
        drop_images(page, {"second.png": encode_image()})
        wait_for_results(page, 2)
        assert read_results(page)["second.png"].split()[0] in CLASSES


def test_requests_are_described_on_a_page(server: Server, page: Page) -> None:
    """The page needs no other server and names every path and refusal."""
    errors = collect_errors(page)
    page.goto(f"http://127.0.0.1:{server.port}/docs")
    page.locator("#paths h2").nth(5).wait_for()
    text = page.inner_text("body")
    for part in ("POST /predict", "POST /invocations", "GET /ready", "429", "multipart/form-data"):
        assert part in text
    assert errors == []
