"""The zoo of networks, and model directories: ours and Azure's.

`names` needs no torch; the rest is imported by name where it is used.
"""

from trialrun.models.names import ARCHITECTURES, check_model_name

__all__ = ["ARCHITECTURES", "check_model_name"]
