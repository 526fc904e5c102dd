"""MODEL, as the user names it, to a folder on this machine."""

from pathlib import Path

from trialrun.errors import InvalidModelDirectoryError, TrackingError, first_line

_URI_SCHEMES = ("models:/", "runs:/", "mlflow-artifacts:/", "s3://", "gs://", "http://", "https://")


def model_folder(model: str) -> Path:
    """The folder of `models:/NAME/3`, `models:/NAME@alias`, `runs:/ID/model` or a path.

    What MLflow has elsewhere is downloaded into a temporary folder.

    Raises:
        InvalidModelDirectoryError: There is no such folder.
        TrackingError: There is no such model, version, alias or run, or it cannot be downloaded.
    """
    if not model.startswith(_URI_SCHEMES):
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise InvalidModelDirectoryError(
                f"there is no model directory {model} (looked in {Path.cwd()})",
                "Give a folder, models:/NAME/VERSION, models:/NAME@alias or runs:/ID/model.",
            )
        return folder
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=model))
    except (MlflowException, OSError) as error:
        reason = first_line(error)
        raise TrackingError(
            f"{model} cannot be had: {reason}",
            "Check the name, the version and MLFLOW_TRACKING_URI.",
        ) from error
