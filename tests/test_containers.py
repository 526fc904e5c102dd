"""The Dockerfile and compose.yaml, checked without an engine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]


def run_tool(name: str, *arguments: str) -> None:
    """Run a program of this environment; fail with its output if it finds something."""
    command = [str(Path(sys.executable).parent / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_accepts_the_dockerfile() -> None:
    """No finding of hadolint, also in the shell commands."""
    run_tool("hadolint", "Dockerfile")


def test_compose_file_follows_the_schema() -> None:
    """compose.yaml is valid by the schema of the compose specification."""
    run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_image_runs_as_a_user_without_rights() -> None:
    """The last USER is a numeric ID other than root's."""
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert int(users[-1]) > 0


def test_image_has_the_locked_versions() -> None:
    """Each installation is constrained by the lock, and uv is the one of the Makefile."""
    installs = re.findall(r"uv pip install(?:.*\\\n)*.*", DOCKERFILE)
    assert len(installs) == 2
    assert all("constraints requirements.lock" in text for text in installs)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    versions = re.findall(r"^(?:ARG )?UV_VERSION ?:?= ?(\S+)", DOCKERFILE + makefile, re.MULTILINE)
    assert len(versions) == 2
    assert len(set(versions)) == 1


def test_copied_files_exist_and_are_sent_to_the_engine() -> None:
    """Each source of COPY exists, and .dockerignore lets it pass."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists()
        assert Path(source).parts[0] in allowed


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml"])
def test_no_password_is_written_down(name: str) -> None:
    """Addresses have no password; variables with one name a file."""
    text = (ROOT / name).read_text("utf-8")
    assert not re.search(r"://[^/\s:@]+:[^@\s]+@", text)
    assert not re.search(r"(?im)^ *(?:ENV|ARG)? *\w*password *[:=] *\S", text)


@pytest.mark.parametrize("name", ["db", "mlflow"])
def test_servers_have_health_checks_and_volumes(name: str) -> None:
    """Services that others wait for tell when they are ready, and keep their data."""
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["volumes"]


def test_services_start_in_order() -> None:
    """The server waits for a healthy database, the worker for a healthy server."""
    assert SERVICES["mlflow"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert SERVICES["worker"]["depends_on"] == {"mlflow": {"condition": "service_healthy"}}


def test_entrypoint_reads_the_password_from_a_file(tmp_path: Path) -> None:
    """The variable that libpq reads gets the content of the file that PGPASSWORD_FILE names."""
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    script = str(ROOT / "docker" / "entrypoint.sh")
    command = [script, sys.executable, "-c", "import os; print(os.environ['PGPASSWORD'])"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PGPASSWORD_FILE": str(secret)}, check=True
    )
    assert done.stdout == "correct horse\n"
