"""Deletes from this machine what remains of runs that nothing will continue."""

from contextlib import suppress

from trialrun.checkpoint.run_folder import RunFolder
from trialrun.errors import StorageError
from trialrun.tracking import Journal, has_journal

_FINAL = "is_final"  # in the owner's values


def delete_run_data(folder: RunFolder) -> None:
    """Delete the saved states of an ended run, and its folder if the store has all its records.

    Otherwise `trialrun sync` sends the records and deletes the folder. A folder that a process
    works on, or with a damaged journal, remains.
    """
    with suppress(StorageError), folder.lock():
        folder.delete_checkpoints()
        if _count_unsent(folder):
            folder.write_owner(**{_FINAL: True})
        else:
            folder.delete()


def is_final(folder: RunFolder) -> bool:
    """Whether the folder can be deleted once the store has all its records."""
    return bool(folder.read_owner().get(_FINAL))


def _count_unsent(folder: RunFolder) -> int:
    if not has_journal(folder.journal):
        return 0
    journal = Journal(folder.journal)
    journal.close()
    return journal.num_unsent
