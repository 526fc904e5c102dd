"""Image classifiers that other programs logged with MLflow. Loading one runs its code."""

from trialrun.serving.foreign.metadata import check_code_allowed, is_trialrun_model
from trialrun.serving.foreign.model import ForeignModel, open_foreign_model

__all__ = [
    "ForeignModel",
    "check_code_allowed",
    "is_trialrun_model",
    "open_foreign_model",
]
