"""A headless Chromium that tests and scripts drive over a pipe, with its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_COMMANDS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
)


def find_chromium() -> str | None:
    """Return the command of an installed Chromium, if there is one."""
    return next((path for name in _COMMANDS if (path := shutil.which(name))), None)


class Page:
    """A page of the browser; messages end with a zero byte."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = os.fdopen(commands, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb", buffering=0)
        self._received = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self.messages: list[str] = []  # errors of scripts and of the page's policy
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Close the pipes."""
        self._commands.close()
        self._answers.close()

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            chunk = self._answers.read(65536)
            assert chunk, "the browser has ended"
            self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        values: dict[str, Any] = json.loads(message)
        return values

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(event["params"]["exceptionDetails"]))
        if event.get("method") == "Log.entryAdded":
            entry = event["params"]["entry"]
            if entry["level"] == "error":
                self.messages.append(entry["text"])

    def open(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression; a promise is awaited."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 20.0) -> None:
        """Wait until an expression is true."""
        script = f"""new Promise((resolve, reject) => {{
            const end = Date.now() + {1000 * seconds};
            (function look() {{
                if ({condition}) resolve(true);
                else if (Date.now() > end) resolve(false);
                else setTimeout(look, 20);
            }})();
        }})"""
        assert self.evaluate(script), (condition, self.messages)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def take_picture(self) -> bytes:
        """Return a PNG of the page."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def choose_files(self, selector: str, paths: list[Path]) -> None:
        """Choose files in an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])


@contextmanager
def open_page(command: str, folder: Path) -> Iterator[Page]:
    """Run a browser in the block; its profile is in `folder`."""
    reader, commands = os.pipe()
    answers, writer = os.pipe()
    arguments = [command, *_FLAGS, f"--user-data-dir={folder / 'profile'}"]
    redirected = f'exec "$@" 3<&{reader} 4>&{writer}'  # the descriptors that Chromium expects
    with (folder / "browser.log").open("w") as log:
        process = subprocess.Popen(
            ["/bin/bash", "-c", redirected, "bash", *arguments],
            pass_fds=(reader, writer),
            stdout=log,
            stderr=log,
            env=os.environ | {"HOME": str(folder)},
        )
    os.close(reader)
    os.close(writer)
    page: Page | None = None
    try:
        page = Page(commands, answers)
        yield page
    finally:
        process.terminate()
        process.wait(20)
        if page is not None:
            page.close()
