"""Repeats the step at which a run's loss was not finite, and names the layer and the images."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trialrun.checkpoint.run_folder import RunFolder
from trialrun.checkpoint.store import Checkpoint, CheckpointStore
from trialrun.config.resume import ResumeConfig
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.engine.fit import fit
from trialrun.engine.replay import NonFiniteStep, replay_step
from trialrun.errors import StorageError, TrackingError
from trialrun.images import make_printable
from trialrun.mlflow_client import connect_client
from trialrun.runs.callbacks import RunCallback
from trialrun.runs.inspection.run_reader import read_run
from trialrun.runs.recovery.interrupted import find_last_interrupted
from trialrun.runs.recovery.resume import find_folder, plan_resumed
from trialrun.runs.training.inputs.data import PreparedData, prepare_data
from trialrun.runs.training.resumption.checkpoints import read_positions, restore_session
from trialrun.runs.training.resumption.identity import check_identity, describe_identity
from trialrun.runs.training.session import TrainingSession, resolve_rank_compute, start_session

if TYPE_CHECKING:
    from trialrun.runs.training.plan import TrainPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedStep:
    """A repeated step. `layer` is None if its loss is finite this time.

    `images` are those with non-finite values at the layer; `num_images` counts the step's.
    """

    run_id: str
    epoch: int
    step: int
    learning_rate: float
    num_images: int
    layer: str | None = None
    kind: str | None = None
    images: tuple[str, ...] = ()
    largest_before: float | None = None
    has_finite_weights: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values by the names of the fields."""
        return asdict(self)


@isolate_torch_state()
def replay_run(run_id: str | None, config: ResumeConfig, callback: RunCallback) -> ReplayedStep:
    """Repeat the step at which the loss of run `run_id` was not finite; nothing is logged.

    None is the newest run that has not finished.

    Without the state before the step, which is saved on a CPU, training is repeated from the newest
    checkpoint until the loss is not finite.

    Raises:
        TrackingError: The run does not exist, or its loss was finite.
        StorageError: Neither state nor checkpoint is on this machine.
        TrialrunError: Its settings or images have changed.
    """
    client = connect_client()
    original = read_run(client, run_id or find_last_interrupted(client))
    if original.tags.get("stop_reason") != "non_finite_loss":
        raise TrackingError(
            f"run {original.run_id} did not stop because of its loss",
            "Replay a run with the tag stop_reason=non_finite_loss.",
        )
    folder = find_folder(client, original, config)
    checkpoint = None if folder is None else _read_state(folder)
    if folder is None or checkpoint is None:
        raise StorageError(
            f"run {original.run_id} has no saved state on this machine",
            "Replay it on the machine that trained it, or name --checkpoint-dir.",
        )
    plan = plan_resumed(client, original, folder, config)
    plan = replace(
        plan, config=replace(plan.config, compile=False)
    )  # compiled layers have no hooks
    return _replay(original.run_id, plan, checkpoint, callback)


def _read_state(folder: RunFolder) -> Checkpoint | None:
    return (
        CheckpointStore(folder.non_finite).read_newest()
        or CheckpointStore(folder.checkpoints).read_newest()
    )


def _replay(
    run_id: str, plan: "TrainPlan", checkpoint: Checkpoint, callback: RunCallback
) -> ReplayedStep:
    compute = resolve_rank_compute(plan)
    data = prepare_data(plan, callback)
    identity = describe_identity(plan, data, compute)
    check_identity(
        checkpoint.values["identity"],
        identity | {"settings": checkpoint.values["identity"]["settings"]},
    )
    session = start_session(plan, data, compute, SINGLE_PROCESS, callback.on_note)
    restore_session(session, checkpoint)
    positions = read_positions(checkpoint)
    if positions is None:
        positions = _train_until_non_finite(session)
    state = session.state
    values: dict[str, Any] = {
        "run_id": run_id,
        "epoch": state.epoch + 1,
        "step": state.step + 1,
        "learning_rate": float(state.scheduler.get_last_lr()[0]),
        "num_images": 0 if positions is None else len(positions),
    }
    found = None if positions is None else replay_step(state, plan.config, positions)
    return ReplayedStep(**values, **({} if found is None else _describe(found, data)))


def _train_until_non_finite(session: TrainingSession) -> NDArray[np.int64] | None:
    """Train until a step's loss is not finite; return its images, or None if all are finite."""
    session.state.checks_each_step = True
    try:
        for _ in fit(session.state, session.plan.config):
            pass
    except NonFiniteLossError as error:
        return error.positions
    return None


def _describe(found: NonFiniteStep, data: PreparedData) -> dict[str, Any]:
    items, rows = data.train.scan.images.items, data.train.dataset.rows
    names = [make_printable(items[rows[i % len(rows)]].name) for i in found.positions.tolist()]
    return {
        "layer": found.layer,
        "kind": found.kind,
        "images": tuple(dict.fromkeys(names)),  # an epoch may repeat an image
        "largest_before": found.largest_before,
        "has_finite_weights": found.has_finite_weights,
    }
