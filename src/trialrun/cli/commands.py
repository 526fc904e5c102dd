"""Every command of the application.

Torch and MLflow are imported inside the commands, so that --help answers at once.
"""

from trialrun.cli import (
    compare,
    data,
    evaluate,
    model,
    registry,
    reproduce,
    score,
    search,
    train,
)
from trialrun.cli.app import app

__all__ = [
    "app",
    "compare",
    "data",
    "evaluate",
    "model",
    "registry",
    "reproduce",
    "score",
    "search",
    "train",
]
