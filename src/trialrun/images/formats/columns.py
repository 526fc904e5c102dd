"""Further columns of image lists, such as a patient, which conversions keep."""

from typing import Any

from trialrun.config.data import DataConfig
from trialrun.images.dataset import ImageSet
from trialrun.images.formats import LIST_READERS

GROUP_COLUMN = "group"  # of groups that come from a pattern and have no column


def collect_columns(
    images: ImageSet, config: DataConfig, *, has_group_pattern: bool = False
) -> dict[str, dict[str, Any]]:
    """Return the columns of each image besides its name and label, by image name.

    The file is read again: for training, columns would only take memory.
    """
    reader = next((reader for reader in LIST_READERS if reader.can_read(images.root)), None)
    columns = {} if reader is None else reader.read_columns(images.root, config)
    if has_group_pattern or images.shards is not None:  # shards have no reader of columns
        for item in images.items:
            if item.group is not None:
                columns.setdefault(item.name, {})[GROUP_COLUMN] = item.group
    return columns
