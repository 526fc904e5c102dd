"""Facts about a model in its MLmodel file, which are read without running the model."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement

from trialrun.errors import InvalidModelDirectoryError, summarize_error
from trialrun.models.zoo.names import AZURE_DESCRIPTION_FILE, DESCRIPTION_FILE

if TYPE_CHECKING:
    from mlflow.types import Schema

CLASSES_KEY = "classes"  # of the metadata that `log_model` stores
_MLMODEL, _REQUIREMENTS = "MLmodel", "requirements.txt"
_PYFUNC = "python_function"


@dataclass(frozen=True, slots=True)
class ForeignMetadata:
    """The contents of an MLmodel file; `classes` and `inputs` are None if it does not have them."""

    flavors: tuple[str, ...]
    classes: tuple[str, ...] | None
    inputs: "Schema | None"
    code_folders: tuple[Path, ...]


def is_trialrun_model(folder: Path) -> bool:
    """Whether `models.open.open_classifier` opens the folder, without running anything in it."""
    return any((folder / name).is_file() for name in (DESCRIPTION_FILE, AZURE_DESCRIPTION_FILE))


def check_code_allowed(folder: Path, *, name: str, is_allowed: bool) -> None:
    """Check that the code of the MLflow model in `folder` may run.

    `name` is what error messages call the model.

    Raises:
        InvalidModelDirectoryError: It may not, or the folder has no MLflow model.
    """
    metadata = read_metadata(folder, name=name)
    if not is_allowed:
        flavors = ", ".join(metadata.flavors)
        raise InvalidModelDirectoryError(
            f"{name} was registered by plain MLflow (flavors {flavors}): loading it runs its code",
            "Pass --allow-model-code if you trust it.",
        )


def read_metadata(folder: Path, *, name: str) -> ForeignMetadata:
    """Read the MLmodel file of a model.

    Raises:
        InvalidModelDirectoryError: It is missing or damaged, or names no Python function.
    """
    if not (folder / _MLMODEL).is_file():
        raise InvalidModelDirectoryError(
            f"{name} is not a model: it has no file {_MLMODEL}",
            "Give a model of trialrun, of Azure ML designer or of MLflow.",
        )
    model = _load_mlmodel(folder, name)
    if _PYFUNC not in model.flavors:
        raise InvalidModelDirectoryError(
            f"{name} has no flavor {_PYFUNC} (flavors {', '.join(model.flavors) or 'none'})",
            f"Log it with an MLflow flavor that adds {_PYFUNC}.",
        )
    return ForeignMetadata(
        flavors=tuple(sorted(model.flavors)),
        classes=_read_classes(model.metadata, name),
        inputs=model.get_input_schema(),
        code_folders=tuple(sorted(_find_code_folders(folder, model.flavors))),
    )


def _load_mlmodel(folder: Path, name: str) -> Any:
    from mlflow.models import Model

    try:
        return Model.load(str(folder))
    except Exception as error:  # YAML errors, missing keys, values of other types
        raise InvalidModelDirectoryError(
            f"the file {_MLMODEL} of {name} is damaged: {summarize_error(error)}",
            "Log the model again.",
        ) from error


def _read_classes(metadata: dict[str, Any] | None, name: str) -> tuple[str, ...] | None:
    classes = (metadata or {}).get(CLASSES_KEY)
    if classes is None:
        return None
    is_list = isinstance(classes, list) and all(isinstance(x, str) for x in classes)
    if not is_list or not classes or len(set(classes)) != len(classes):
        raise InvalidModelDirectoryError(
            f"the metadata key {CLASSES_KEY} of {name} is not a list of unique class names",
            f'Log the model with metadata={{"{CLASSES_KEY}": ["cat", "dog"]}}, in index order.',
        )
    return tuple(classes)


def _find_code_folders(folder: Path, flavors: dict[str, Any]) -> set[Path]:
    """Return the folders that MLflow adds to `sys.path` when it loads the model."""
    configs = [config for config in flavors.values() if isinstance(config, dict)]
    return {folder / config["code"] for config in configs if isinstance(config.get("code"), str)}


def list_requirement_notes(folder: Path, *, name: str) -> tuple[str, ...]:
    """Return one line for each requirement of the model that the environment does not meet."""
    path = folder / _REQUIREMENTS
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    return tuple(
        f"{name} requires {requirement}, {found}" for requirement, found in _find_mismatches(lines)
    )


def _find_mismatches(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        try:
            requirement = Requirement(line.partition(" #")[0].strip())
        except InvalidRequirement:  # an option, a path, a comment or an empty line
            continue
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield str(requirement), "which is not installed"
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield str(requirement), f"but {installed} is installed"
