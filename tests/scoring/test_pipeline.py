"""The scoring pipeline: several streams, and torch's number of threads."""

import io

import pytest
import torch
from PIL import Image

from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.zoo.networks import build_network
from trialrun.scoring.network import ScoringNetwork, prepare_network
from trialrun.scoring.pipeline import BatchPlan, score_images


def encode_image(color: int) -> bytes:
    """Return the bytes of a PNG file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (color, 90, 255 - color)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def network() -> ScoringNetwork:
    """Return a small network on the CPU."""
    module = build_network("squeezenet1_1", 2, image_size=32)
    classifier = ImageClassifier(module, ("a", "b"), Preprocessing(32)).eval()
    return prepare_network(classifier, torch.device("cpu"))


def test_streams_keep_the_order_of_the_images(network: ScoringNetwork) -> None:
    """Three streams return what one returns, errors included."""
    images = [encode_image(color) if color % 7 else b"no picture" for color in range(0, 250, 5)]
    plan = BatchPlan(batch_size=4, num_streams=3, chunk_size=2)
    expected = list(score_images(network, images, plan=BatchPlan(batch_size=4)))
    scores = list(score_images(network, images, plan=plan))
    assert [score.error for score in scores] == [score.error for score in expected]
    for score, other in zip(scores, expected, strict=True):
        if score.probabilities is not None:
            assert score.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_streams_leave_the_number_of_threads(network: ScoringNetwork) -> None:
    """Neither this thread nor a later one computes with the number of a stream."""
    import threading

    torch.set_num_threads(2)
    seen: list[int] = []
    try:
        list(score_images(network, [encode_image(9)] * 9, plan=BatchPlan(2, 2)))
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), seen) == (2, [2])
    finally:
        torch.set_num_threads(1)


class FailingNetwork:
    """A network that fails after some batches."""

    classes = ("a", "b")
    preprocessing = Preprocessing(32)

    def compute_probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """Raise torch's error."""
        raise RuntimeError("no such layer")


def test_error_in_a_stream_is_raised() -> None:
    """The caller gets it, and no thread hangs."""
    images = [encode_image(9)] * 20
    with pytest.raises(RuntimeError, match="no such layer"):
        list(score_images(FailingNetwork(), images, plan=BatchPlan(2, 2)))
