"""`trialrun search`: a command that searches the settings of training."""

from typing import Any

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import silence_mlflow
from trialrun.cli.settings_file import (
    ConfigFile,
    SaveConfig,
    merge_settings,
    parse_value,
    save_settings,
)
from trialrun.cli.summary import print_search
from trialrun.config import SearchConfig, Setting, TrainConfig, list_settings
from trialrun.config.record import format_values
from trialrun.tuning.plan import resolve_settings
from trialrun.tuning.space import is_searched, parse_dimension

_TRAINING_SETTINGS = frozenset(item.name for item in list_settings(TrainConfig))


@app.command()
@flags_for(TrainConfig)
@flags_for(SearchConfig)
def search(
    config: ConfigFile = None,
    save_config: SaveConfig = None,
    json: Json = False,
    **settings: Any,
) -> None:
    """Search for the best settings of `train`. Each trial is an MLflow run.

    Every setting of `train` takes a value, a range (1e-4:1e-1, or 8:64:8 with a step of 8) or a
    list of choices (8,16,32). If no setting has a range or choices, learning_rate=1e-4:1e-1 and
    batch_size=8,16,32,64 are searched.
    """
    settings = merge_settings(config, settings, TrainConfig, SearchConfig, check=_check_value)
    if save_config is not None:
        text = format_values(resolve_settings(settings))
        save_settings(save_config, text, "search", json=json)
        return
    from trialrun.cli.progress import SearchProgress
    from trialrun.tuning.api import plan_and_search

    silence_mlflow()
    print_search(plan_and_search(settings, SearchProgress), json=json)


def _check_value(setting: Setting, value: Any) -> None:
    """Raise InvalidParameterError unless `value` is a legal value, range or choice."""
    if setting.name in _TRAINING_SETTINGS and is_searched(setting, value):
        parse_dimension(setting, value)
    else:
        parse_value(setting, value)
