"""Loading of the model to score with."""

from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.registry.pins import find_pinned_folder


@isolate_torch_state()
def load_model(model: str, sha256: str | None = None) -> ImageClassifier:
    """Load a model (models:/…, runs:/…, a directory of ours or Azure's) in eval mode.

    Raises:
        InvalidModelDirectoryError: Not a PyTorch image model of ours or Azure's, damaged, or
            with other weights than `sha256`.
        TrackingError: MLflow does not have the model.
    """
    return open_classifier(find_pinned_folder(model, sha256))
