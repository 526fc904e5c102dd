"""Trained models in MLflow: logged models, registered versions, promotion gates and aliases."""

from trialrun.registry.models import LoggedModel, create_model, register_version, upload_model
from trialrun.registry.versions import find_model_folder

__all__ = ["LoggedModel", "create_model", "find_model_folder", "register_version", "upload_model"]
