"""Every command of the application.

Torch and MLflow are imported inside the commands, so that --help answers at once.
"""

from trialrun.cli.app import app
from trialrun.cli.commands import (
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
