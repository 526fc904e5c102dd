"""What a run does after each training step: it takes checkpoints and forecasts the duration."""

from dataclasses import dataclass

from trialrun.runs.training.resumption.checkpoints import RunCheckpoints
from trialrun.runs.training.session import DurationForecast


@dataclass(slots=True)
class StepMonitor:
    """Called after each step by every rank; only rank 0 forecasts."""

    checkpoints: RunCheckpoints
    forecast: DurationForecast | None = None

    def on_step(self) -> None:
        """Take a checkpoint if one is due."""
        if self.forecast is not None:
            self.forecast.on_step()
        if self.checkpoints.session.ranks.broadcast_object(self.checkpoints.is_due):
            self.checkpoints.save(in_epoch=True)
