"""What runs that nothing will continue leave on the disk."""

from pathlib import Path

import pytest

from tests.tracking.journaled import AwayClient, make_options, open_journaled, read_runs
from trialrun.checkpoint.run_folder import RunFolder
from trialrun.runs.recovery.cleanup import delete_run_data
from trialrun.runs.recovery.sync import SENT, sync_runs


def fail_run(store: str, root: Path, *, is_away: bool) -> RunFolder:
    """Leave a run that failed, with checkpoints; its store may have gone away after its start."""
    options = make_options(root, flush_seconds=0)
    client = AwayClient(store)

    def train() -> None:
        with open_journaled(client, options) as run:
            client.is_away = is_away
            run.log_metrics({"loss": 1}, 1)
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        train()
    for path in (options.folder.checkpoints, options.folder.non_finite):
        (path / "1").mkdir(parents=True)
    return options.folder


def test_folder_is_deleted_once_the_store_has_all_records(store: str, tmp_path: Path) -> None:
    """Without an outage, that is at once."""
    folder = fail_run(store, tmp_path, is_away=False)
    delete_run_data(folder)
    assert not folder.path.exists()


@pytest.mark.slow
def test_unsent_records_remain_until_they_are_sent(store: str, tmp_path: Path) -> None:
    """The checkpoints are deleted at once, and the folder by `sync`."""
    folder = fail_run(store, tmp_path, is_away=True)
    delete_run_data(folder)
    assert not folder.checkpoints.exists()
    assert not folder.non_finite.exists()
    assert [row.outcome for row in sync_runs(str(tmp_path))] == [SENT]
    (run,) = read_runs(store)
    assert (run.info.status, run.data.metrics["loss"]) == ("FAILED", 1)
    assert not folder.path.exists()


def test_folder_in_use_remains(store: str, tmp_path: Path) -> None:
    """Its process may write another checkpoint."""
    folder = fail_run(store, tmp_path, is_away=False)
    with folder.lock():
        delete_run_data(folder)
    assert folder.checkpoints.exists()
