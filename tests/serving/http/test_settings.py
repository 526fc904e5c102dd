"""Settings of the server: what is refused before it starts, and the token."""

import socket
import sys
from pathlib import Path

import pytest

from tests.serving.http.servers import TOKEN, encode_image, run_server
from trialrun.cli import run_cli


def run_refused(
    capsys: pytest.CaptureFixture[str], model: Path | str, *flags: str
) -> tuple[int, str]:
    """Run a server that does not start; return the exit code and its two lines."""
    code = run_cli(["serve", str(model), *flags])
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["Error", "Hint"], lines
    return code, "\n".join(lines)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_hosts_need_a_token(
    small_model: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    """The error names the host, the hint the flag."""
    code, text = run_refused(capsys, small_model, "--host", host)
    assert code == 2
    assert f"host={host} is reachable from other machines" in text
    assert "--token-file" in text


@pytest.mark.parametrize("content", [None, b"", b"short", b"two words of a long token", b"\xff"])
def test_invalid_token_file_is_refused(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    """A missing file, and one without a single long word, are errors."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    code, text = run_refused(capsys, small_model, "--token-file", str(path))
    assert code == 2
    assert f"token_file={path}" in text


def test_alias_to_follow_must_be_in_the_address(
    small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder has no alias."""
    code, text = run_refused(capsys, small_model, "--reload-alias")
    assert code == 2
    assert "models:/NAME@champion" in text


def test_taken_port_is_named_before_the_model_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error has the port; the missing model is not looked for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, text = run_refused(capsys, tmp_path / "missing", "--port", port)
    assert code == 2
    assert f"port={port}" in text


def test_missing_model_exits_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error is that of every command."""
    code, text = run_refused(capsys, tmp_path / "missing", "--port", "0")
    assert code == 4
    assert "does not exist" in text


@pytest.mark.parametrize("package", ["prometheus_client", "python_multipart"])
def test_missing_package_names_its_extra(
    small_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    package: str,
) -> None:
    """The hint is the command that installs it."""
    monkeypatch.setitem(sys.modules, package, None)
    code, text = run_refused(capsys, small_model)
    assert code == 2
    assert "trialrun[serve]" in text


def test_token_protects_images_metrics_and_description(small_model: Path, tmp_path: Path) -> None:
    """Without the token, only the pages and the probes respond."""
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    flags = ("--token-file", str(token), "--host", "0.0.0.0")
    image = encode_image()
    with run_server(small_model, tmp_path / "server", *flags) as server:
        for path in ("/", "/docs", "/health", "/ready"):
            assert server.request(path)[0] == 200
        for path in ("/metrics", "/openapi.json", "/nothing"):
            assert server.request(path)[0] == 401
        wrong = ("", TOKEN, "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}")
        for value in wrong:
            for path in ("/predict", "/invocations"):
                status, answer = server.request(path, image, headers={"Authorization": value})
                assert (status, answer["status"]) == (401, 401)
        given = {"Authorization": f"Bearer {TOKEN}"}
        assert server.request("/predict", image, headers=given)[0] == 200
        description = server.request("/openapi.json", headers=given)[1]
        assert description["paths"]["/predict"]["post"]["security"] == [{"token": []}]
        assert TOKEN not in server.log.read_text()
