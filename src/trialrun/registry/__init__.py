"""Trained models in MLflow: logged models, registered versions, promotion gates and aliases."""

from trialrun.registry.models import (
    LoggedModel,
    find_or_create_model,
    format_run_address,
    link_output,
    register_once,
    register_version,
    upload_model,
)
from trialrun.registry.versions import find_model_folder

__all__ = [
    "LoggedModel",
    "find_model_folder",
    "find_or_create_model",
    "format_run_address",
    "link_output",
    "register_once",
    "register_version",
    "upload_model",
]
