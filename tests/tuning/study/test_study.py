"""Opening a study again."""

from pathlib import Path

import pytest

from tests.tuning.conftest import settings
from trialrun.errors import InvalidParameterError
from trialrun.tuning.plan import plan_search
from trialrun.tuning.study import attrs
from trialrun.tuning.study.storage import open_storage
from trialrun.tuning.study.study import open_study


def test_study_of_an_older_version_has_the_default_of_a_new_setting(
    store: str, colors: Path
) -> None:
    """A setting that the study does not know must have its default, as it had in its trials."""
    storage = open_storage(store.replace("mlflow.db", "optuna.db"), heartbeat_seconds=1)
    study = open_study(storage, "older", plan_search(settings(colors)))
    signature = dict(study.user_attrs[attrs.SIGNATURE])
    del signature["label_smoothing"]
    study.set_user_attr(attrs.SIGNATURE, signature)
    open_study(storage, "older", plan_search(settings(colors)))
    with pytest.raises(InvalidParameterError, match=r"created with label_smoothing=0\.0"):
        open_study(storage, "older", plan_search(settings(colors, label_smoothing=0.1)))
