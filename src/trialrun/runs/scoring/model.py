"""Loading of the model to score with."""

from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.registry import find_model_folder


@isolate_torch_state()
def load_model(model: str) -> ImageClassifier:
    """Load a model (models:/…, runs:/…, a directory of ours or Azure's) in eval mode.

    Raises:
        InvalidModelDirectoryError: Not a PyTorch image model of ours or Azure's, or damaged.
        TrackingError: MLflow does not have the model.
    """
    return open_classifier(find_model_folder(model))
