"""What a run does after each training step: checkpoints, a forecast, the report of parts."""

from dataclasses import dataclass

from trialrun.runs.training.parts_report import PartsReport
from trialrun.runs.training.resumption.checkpoints import RunCheckpoints
from trialrun.runs.training.session import DurationForecast


@dataclass(slots=True)
class StepMonitor:
    """Called after each step by every rank; only rank 0 forecasts and reports."""

    checkpoints: RunCheckpoints
    forecast: DurationForecast | None = None
    parts: PartsReport | None = None

    def on_step(self) -> None:
        """Take a checkpoint if one is due."""
        if self.forecast is not None:
            self.forecast.on_step()
        if self.parts is not None:
            self.parts.on_step()
        if self.checkpoints.session.ranks.broadcast_object(self.checkpoints.is_due):
            self.checkpoints.save(in_epoch=True)
