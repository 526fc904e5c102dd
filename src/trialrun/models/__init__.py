"""Networks and model directories, in trialrun's format and in Azure ML designer's.

The module `names` does not import torch. The other modules do, so they are imported where needed.
"""

from trialrun.models.zoo.names import ARCHITECTURES, check_model_name

__all__ = ["ARCHITECTURES", "check_model_name"]
