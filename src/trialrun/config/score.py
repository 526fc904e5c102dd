"""Settings of `trialrun score`, except the model, the data and the output."""

from dataclasses import dataclass

from trialrun.config.settings import device_setting, sha256_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """Settings of scoring; `build_config` builds and checks it."""

    sha256: str | None = sha256_setting()
    device: str = device_setting(
        "Device to score on; auto is CUDA if available, else MPS, else the CPU."
    )
