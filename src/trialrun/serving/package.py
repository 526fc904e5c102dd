"""Writer of the files that MLflow needs to serve a model directory: MLmodel, requirements, code."""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.config.engines import ENGINE_PACKAGES
from trialrun.files import scratch_directory
from trialrun.models.directory import PYTORCH_DATA, ModelDescription, format_loader_module
from trialrun.models.manifest import CODE, add_code_to_manifest
from trialrun.models.open import open_classifier
from trialrun.models.zoo.names import TIMM_PREFIX
from trialrun.scoring.scores import LABEL_COLUMN, probability_columns
from trialrun.serving import IMAGE_COLUMN
from trialrun.serving.bundle import write_served_code

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_REQUIRED = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pyyaml",
    "safetensors",
    "torch",
    "torchvision",
)


def _list_requirements(description: ModelDescription) -> list[str]:
    """Return the packages that serving imports, pinned to the installed versions."""
    required = [*_REQUIRED, *ENGINE_PACKAGES.get(description.engine, ())]
    if description.architecture.startswith(TIMM_PREFIX):
        required.append("timm")
    return [f"{name}=={version(name).partition('+')[0]}" for name in required]


def add_serving_files(
    folder: Path,
    description: ModelDescription,
    *,
    model_id: str,
    run_id: str,
    with_pytorch_flavor: bool = False,
) -> None:
    """Add MLflow's files to a model directory that already contains its data files.

    The requirements include the packages of its engine and its network. MLflow's pytorch flavor
    holds the network alone, which maps normalised images to logits, as a pickle.
    """
    from mlflow.models import Model
    from mlflow.pyfunc import add_to_model
    from mlflow.utils.environment import _PythonEnv

    pins = _list_requirements(description)
    (folder / "requirements.txt").write_text("\n".join(pins) + "\n")
    (folder / "conda.yaml").write_text(_format_conda_yaml(pins))
    _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))
    package = write_served_code(folder / CODE)
    add_code_to_manifest(folder)
    model = Model(run_id=run_id, model_id=model_id, signature=build_signature(description.classes))
    add_to_model(
        model,
        loader_module=format_loader_module(package),
        code=CODE,
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_code_path=None,
    )
    model.add_flavor("trialrun", version=version("trialrun"), data=".")
    if with_pytorch_flavor:
        model.add_flavor("pytorch", **_write_pytorch_files(folder))
    model.save(str(folder / "MLmodel"))


def _write_pytorch_files(folder: Path) -> dict[str, Any]:
    """Write the files of MLflow's pytorch flavor; return its entry in MLmodel."""
    import mlflow
    from mlflow.models import Model

    with scratch_directory() as scratch:
        path = scratch / "model"
        mlflow.pytorch.save_model(
            open_classifier(folder).network,
            str(path),
            pip_requirements=[],
            serialization_format="pickle",
        )
        shutil.copytree(path / PYTORCH_DATA, folder / PYTORCH_DATA)
        flavor: dict[str, Any] = Model.load(str(path)).flavors["pytorch"]
    return flavor


def build_signature(classes: tuple[str, ...]) -> "ModelSignature":
    """Return MLflow's description of the inputs and outputs of a model with these classes."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    outputs = [ColSpec(DataType.double, name) for name in probability_columns(classes)]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, IMAGE_COLUMN)]),
        outputs=Schema([*outputs, ColSpec(DataType.string, LABEL_COLUMN)]),
    )


def _format_conda_yaml(pins: list[str]) -> str:
    import platform

    lines = [
        "name: trialrun-model",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f"  - python={platform.python_version()}",
        "  - pip",
        "  - pip:",
        *(f"      - {pin}" for pin in pins),
    ]
    return "\n".join(lines) + "\n"
