"""Settings of `trialrun data shard`, beside the data and the output folder."""

from dataclasses import dataclass

from trialrun.config.data import DataConfig
from trialrun.config.settings import group_column_setting, group_pattern_setting, setting

TAR, PARQUET = "tar", "parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardConfig(DataConfig):
    """How a dataset is written as shards; created by `build_config`, which checks the values."""

    format: str = setting(
        TAR,
        "tar (WebDataset's layout) or parquet (Hugging Face's layout).",
        choices=(TAR, PARQUET),
    )
    shard_size_mb: int = setting(256, "Size of a shard in 10^6 bytes, about.", low=1)
    keep_order: bool = setting(
        False, "Write the images in the order of DATA instead of a random order."
    )
    random_seed: int = setting(1, "Seed of the random order.")
    group_column: str | None = group_column_setting("get the same value in the field group")
    group_pattern: str | None = group_pattern_setting("get the same value in the field group")
