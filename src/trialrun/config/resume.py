"""Settings of the continuation of a run, beside the run."""

from dataclasses import dataclass

from trialrun.config.settings import present_data_setting, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeConfig:
    """Where a resumed run finds its images and checkpoints; all other settings are the run's own.

    `build_config` creates it and checks the values.
    """

    train_data: str | None = present_data_setting("training")
    valid_data: str | None = present_data_setting("validation")
    checkpoint_dir: str | None = setting(
        None,
        "Folder with the run's checkpoints; none is the one that the run recorded, or the default "
        "of the tracking store.",
        path=True,
    )
