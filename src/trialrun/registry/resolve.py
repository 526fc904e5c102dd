"""MODEL, as the user names it, to a folder on this machine."""

from pathlib import Path

from trialrun.errors import InvalidModelDirectoryError
from trialrun.store import URI_SCHEMES, connect, downloaded


def model_folder(model: str) -> Path:
    """The folder of `models:/NAME/3`, `models:/NAME@alias`, `runs:/ID/model` or a path.

    What MLflow has elsewhere is downloaded, until the process ends.

    Raises:
        InvalidModelDirectoryError: There is no such folder.
        TrackingError: There is no such model, version, alias or run, or it cannot be downloaded.
    """
    if model.startswith(URI_SCHEMES):
        connect()  # so that a server which is not there is told soon
        return downloaded(model)
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise InvalidModelDirectoryError(
            f"there is no model directory {model} (looked in {Path.cwd()})",
            "Give a folder, models:/NAME/VERSION, models:/NAME@alias or runs:/ID/model.",
        )
    return folder
