"""Trained model directories in Azure ML designer's format, valid and changed."""

import io
import json
from pathlib import Path

import torch


def format_azure_spec(**changes: object) -> str:
    """Format a model_spec.yaml of a trained ResNet-18, as JSON, which is also YAML."""
    spec: dict[str, object] = {
        "flavor": {"name": "pytorch", "serialization_method": "state_dict"},
        "model_file": "model",
        "flavor_extras": {
            "module": "azureml.designer.modules.somewhere",
            "class": "ResNet",
            "init_params": {"model_name": "resnet18", "pretrained": False, "num_classes": 2},
        },
        "label_map_file": "index_to_label.csv",
        "inputs": [],
    }
    return json.dumps(spec | changes)


def write_azure_model(folder: Path, weights: bytes, **changes: object) -> None:
    """Write a directory of the classes cat and dog; `weights` is the content of its `model`."""
    folder.mkdir()
    (folder / "model_spec.yaml").write_text(format_azure_spec(**changes))
    (folder / "index_to_label.csv").write_text(",label\n0,cat\n1,dog\n")
    (folder / "model").write_bytes(weights)


def save_with_torch(value: object) -> bytes:
    """Return the content of a file that `torch.save` writes."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
