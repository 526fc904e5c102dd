"""Settings of `trialrun ui`."""

from dataclasses import dataclass

from trialrun.config.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class UiConfig:
    """Settings of the server of MLflow's UI; `build_config` builds and checks it."""

    port: int = setting(
        5000, "Port to listen on, on loopback only; 0 takes a free one.", low=0, high=65535
    )
    experiment: str | None = setting(
        None, "Experiment to show; none is that of the newest run in the store."
    )
    open: bool = setting(False, "Open the page in a browser.")
