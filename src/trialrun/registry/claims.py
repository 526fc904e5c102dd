"""Claims of history entries: MLflow refuses a second experiment of the same name.

A process claims entry 7 of a history by creating an experiment named after that entry, with the
entry in its tags. It deletes (hides) the experiment at once; the name stays taken.
"""

from typing import TYPE_CHECKING

from trialrun.errors import TrackingError
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry.history import AliasEntry, AliasHistory, parse_entry
from trialrun.registry.limits import fit_entry, fit_experiment_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ENTRY_TAG = "trialrun.entry"
_CLAIM_NOTE = (
    "Created by trialrun as a lock while it changes the history of an alias, and deleted at once. "
    "It can be deleted permanently: the history itself is in the tags of the registered model."
)


def claim_entry(client: "MlflowClient", history: AliasHistory, entry: AliasEntry) -> bool:
    """Claim the number of `entry`. Return False if another process has claimed it.

    Raises:
        TrackingError: The store fails.
    """
    from mlflow.exceptions import MlflowException

    tags = {_ENTRY_TAG: entry.to_text(), "mlflow.note.content": _CLAIM_NOTE}
    with translate_tracking_errors("the lock of the alias cannot be created"):
        try:
            experiment = client.create_experiment(_name_claim(history, entry.number), tags=tags)
            client.delete_experiment(experiment)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # A request that was sent again because its first reply was lost finds its own claim.
            claimed = read_claim(client, history, entry.number)
            return claimed is not None and claimed.claim == entry.claim
    return True


def read_claim(client: "MlflowClient", history: AliasHistory, number: int) -> AliasEntry | None:
    """Return the entry for which a process claimed `number`, if any.

    It is cut to the limits of the database: earlier versions of trialrun claimed longer ones.

    Raises:
        TrackingError: The store fails, or the claim is damaged.
    """
    name = _name_claim(history, number)
    with translate_tracking_errors("the history cannot be read"):
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return None
    try:
        return fit_entry(parse_entry(experiment.tags[_ENTRY_TAG]))
    except (ValueError, KeyError) as error:
        raise TrackingError(
            f"the lock of the alias is damaged: experiment {name!r}",
            f"Delete it permanently: mlflow gc --experiment-ids {experiment.experiment_id}",
        ) from error


def _name_claim(history: AliasHistory, number: int) -> str:
    return fit_experiment_name(
        f"trialrun {history.alias} of {history.name} ({history.created_ms}), entry {number}"
    )
