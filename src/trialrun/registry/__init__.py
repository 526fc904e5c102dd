"""Trained models in MLflow: logged with their run, registered, judged, found by URI and alias."""

from trialrun.registry.models import LoggedModel, create_model, register_version, upload_model
from trialrun.registry.versions import find_model_folder

__all__ = ["LoggedModel", "create_model", "find_model_folder", "register_version", "upload_model"]
