"""Limits on what all requests hold at the same time: images, and bytes of bodies."""

from collections.abc import Iterator
from contextlib import contextmanager

from trialrun.serving.http.requests.problems import TOO_LARGE, RequestError, refuse_busy

_MAX_LARGEST_BODIES = 16  # bodies of the largest size that may be in memory


class Admission:
    """Counts images and bytes; the event loop alone calls it."""

    def __init__(self, max_images: int, max_request_bytes: int) -> None:
        self.max_images = max_images
        self.max_request_bytes = max_request_bytes
        self.num_images = 0
        self.num_bytes = 0

    @contextmanager
    def hold_images(self, num_images: int) -> Iterator[None]:
        """Count images as waiting inside the context.

        Raises:
            RequestError: They are more than the queue takes, now (429) or ever (413).
        """
        if num_images > self.max_images:
            reason = f"{num_images} images in one request; the limit is {self.max_images}"
            raise RequestError(TOO_LARGE, reason)
        if self.num_images + num_images > self.max_images:
            raise refuse_busy(f"{self.num_images} images are waiting; try again")
        self.num_images += num_images
        try:
            yield
        finally:
            self.num_images -= num_images

    def add_bytes(self, num_bytes: int) -> None:
        """Count bytes of a body, until `remove_bytes`.

        Raises:
            RequestError: The bodies of all requests together are too large (429).
        """
        if self.num_bytes + num_bytes > _MAX_LARGEST_BODIES * self.max_request_bytes:
            raise refuse_busy("too many bytes are waiting; try again")
        self.num_bytes += num_bytes

    def remove_bytes(self, num_bytes: int) -> None:
        """Stop counting bytes of a body."""
        self.num_bytes -= num_bytes
