"""Reports in how many parts a run computes its batches (gradient accumulation)."""

from collections.abc import Callable

from trialrun.config import AUTO_TEXT
from trialrun.engine.memory.accumulation import find_smallest_part
from trialrun.runs.training.logging import EventLog
from trialrun.runs.training.session import TrainingSession
from trialrun.tracking import TrackedRun

_TAG = "resolved_accumulate_steps"  # a tag, because `auto` may change it and parameters are final


class PartsReport:
    """Notes and logs the number of parts, when training starts and when `auto` changes it."""

    def __init__(
        self,
        session: TrainingSession,
        run: TrackedRun,
        events: EventLog,
        note: Callable[[str], None],
    ) -> None:
        self._session, self._run, self._events, self._note = session, run, events, note
        self._is_auto = session.plan.config.accumulate_steps == AUTO_TEXT
        self._num_parts = 0

    def on_step(self) -> None:
        """Report the number of parts of the step if it differs from the step before."""
        num_parts = self._session.state.num_parts
        if num_parts == self._num_parts:
            return
        self._num_parts = num_parts
        if self._is_auto:
            self._log(num_parts)
        if num_parts > 1:
            self._note(self._describe(num_parts))

    def _log(self, num_parts: int) -> None:
        state = self._session.state
        self._run.set_tags({_TAG: str(num_parts)})
        self._events.add(
            "accumulate_steps", epoch=state.epoch + 1, step=state.step, num_parts=num_parts
        )

    def _describe(self, num_parts: int) -> str:
        reason = ", because it does not fit in memory" if self._is_auto else ""
        text = f"each batch is computed in {num_parts} parts{reason}"
        if find_smallest_part(self._session.state) > 1:
            text += "; batch norm uses the statistics of each part, so results differ slightly"
        return text
