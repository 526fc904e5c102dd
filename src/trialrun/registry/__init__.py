"""Trained models in MLflow: logged with their run, registered, judged, found by URI and alias."""

from trialrun.registry.models import LoggedModel, new_model, register, upload
from trialrun.registry.versions import model_folder

__all__ = ["LoggedModel", "model_folder", "new_model", "register", "upload"]
