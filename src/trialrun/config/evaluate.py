"""The settings of an evaluation, beside the model and the data."""

from dataclasses import dataclass

from trialrun.config.settings import as_texts, device_setting, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """How a model is evaluated; build it with `from_values`, which checks it."""

    confidence: float = setting(0.95, "Share of the draws that an interval holds.", low=0.5, lt=1)
    draws: int = setting(10_000, "Bootstrap draws.", low=100, high=1_000_000)
    random_seed: int = setting(1, "Decides the bootstrap draws.")
    device: str = device_setting("Where to score; auto is CUDA, else MPS, else the CPU.")
    experiment: str | None = setting(
        None, "MLflow experiment of the evaluation; none takes MLflow's own default."
    )
    run_name: str | None = setting(None, "MLflow run name; none lets MLflow draw one.")

    def params(self) -> dict[str, str]:
        """Name to text, as MLflow stores parameters."""
        return as_texts(self)
