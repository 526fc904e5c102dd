"""Settings of `trialrun score`, except the model, the data and the output."""

from dataclasses import dataclass

from trialrun.config.data import DataConfig
from trialrun.config.settings import AUTO_TEXT, device_setting, setting, sha256_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig(DataConfig):
    """Settings of scoring; `build_config` builds and checks it."""

    sha256: str | None = sha256_setting()
    device: str = device_setting(
        "Device to score on; auto is CUDA if available, else MPS, else the CPU."
    )
    batch_size: int | str = setting(
        AUTO_TEXT,
        "Images per batch; auto chooses by the image size and the free memory. Probabilities of "
        "different batch sizes differ by rounding, mostly by less than 1e-6.",
        low=1,
        auto=True,
    )
    top_k: int | None = setting(
        None,
        "Add the columns Top 1 Label, Top 1 Probability and so on, for this number of classes.",
        low=1,
    )
    embeddings: str | None = setting(
        None,
        "Parquet file to write the features before the network's last layer to, one row per image.",
        path=True,
    )
    spark: str | None = setting(
        None,
        "Score with Spark on this master, such as local[4] or spark://HOST:7077; needs "
        "trialrun[spark].",
    )
