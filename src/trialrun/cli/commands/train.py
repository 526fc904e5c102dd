"""`trialrun train`: a command that trains a classifier."""

from typing import Any

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import silence_mlflow
from trialrun.cli.progress import TerminalProgress
from trialrun.cli.settings_file import (
    ConfigFile,
    SaveConfig,
    merge_settings,
    parse_value,
    save_settings,
)
from trialrun.cli.summary import print_training
from trialrun.config import TrainConfig, build_config
from trialrun.config.record import format_record


@app.command()
@flags_for(TrainConfig)
def train(
    config: ConfigFile = None,
    save_config: SaveConfig = None,
    json: Json = False,
    **settings: Any,
) -> None:
    """Train an image classifier and log it as an MLflow run.

    It trains on the sample digits unless --train-data names labelled images.
    """
    settings = merge_settings(config, settings, TrainConfig, check=parse_value)
    if save_config is not None:
        text = format_record(build_config(TrainConfig, settings))
        save_settings(save_config, text, "train", json=json)
        return
    from trialrun.runs.api import run_training

    silence_mlflow()
    print_training(run_training(settings, TerminalProgress), json=json)
