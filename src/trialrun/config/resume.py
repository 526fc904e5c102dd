"""Settings of the continuation of a run, beside the run."""

from dataclasses import dataclass

from trialrun.config.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeConfig:
    """Where a resumed run finds its images and checkpoints; all other settings are the run's own.

    `build_config` creates it and checks the values.
    """

    train_data: str | None = setting(
        None, "Present location of the training images; none is the recorded one.", path=True
    )
    valid_data: str | None = setting(
        None, "Present location of the validation images; none is the recorded one.", path=True
    )
    checkpoint_dir: str | None = setting(
        None,
        "Folder with the run's checkpoints; none is the one that the run recorded, or the default "
        "of the tracking store.",
        path=True,
    )
