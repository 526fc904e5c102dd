"""The state of the server: its limits and metrics, and the model that new requests use."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from trialrun.config.serve import ServeConfig
from trialrun.serving.http.metrics import Metrics
from trialrun.serving.http.requests.admission import Admission
from trialrun.serving.http.requests.multipart import Upload
from trialrun.serving.http.service.batcher import Batcher, Outcome
from trialrun.serving.http.service.invocations import BatchedModel, invoke
from trialrun.serving.http.service.model import OpenModel

_MAX_INVOCATIONS = 64  # requests that MLflow's parser handles at once; each waits in a thread


class Service:
    """Scores the images of requests; its methods are called in the event loop."""

    def __init__(self, model: OpenModel, config: ServeConfig, metrics: Metrics) -> None:
        self.config = config
        self.metrics = metrics
        self.admission = Admission(config.queue_size, config.max_request_bytes)
        self.is_ready = False
        self._batcher = self._make_batcher(model)
        self._parsers = ThreadPoolExecutor(_MAX_INVOCATIONS, "invocations")
        self._closing: set[asyncio.Task[None]] = set()
        metrics.waiting.set_function(lambda: self.admission.num_images)

    def _make_batcher(self, model: OpenModel) -> Batcher:
        self.metrics.set_model(model.name, model.version, model.engine)
        return Batcher(model, self.config, self.metrics)

    @property
    def model(self) -> OpenModel:
        """The model of new requests."""
        return self._batcher.model

    def replace_model(self, model: OpenModel) -> None:
        """Use `model` for new requests; those that have begun finish on the old one."""
        old, self._batcher = self._batcher, self._make_batcher(model)
        closing = asyncio.create_task(old.close())
        self._closing.add(closing)  # the event loop keeps weak references only
        closing.add_done_callback(self._closing.discard)

    async def score(self, uploads: list[Upload]) -> tuple[OpenModel, list[Outcome]]:
        """Return the outcome of each image, and the model that computed them all.

        Raises:
            RequestError: The queue is full, or has no room for so many images.
        """
        batcher = self._batcher
        with self.admission.hold_images(len(uploads)):
            outcomes = await batcher.score([upload.data for upload in uploads])
        self._count(outcomes)
        return batcher.model, outcomes

    async def invoke(self, body: bytes, content_type: str) -> bytes:
        """Return the response of MLflow's server to a body.

        Raises:
            InvocationError: The input is invalid.
            RequestError: The server refuses the request.
        """
        loop, batcher = asyncio.get_running_loop(), self._batcher
        model = BatchedModel(batcher, self.admission, loop)
        try:
            return await loop.run_in_executor(
                self._parsers, invoke, model, batcher.model.read_metadata, body, content_type
            )
        finally:
            self._count(model.outcomes)

    def _count(self, outcomes: list[Outcome]) -> None:
        num_scored = sum(not hasattr(outcome, "status") for outcome in outcomes)
        self.metrics.images.labels("scored").inc(num_scored)
        self.metrics.images.labels("refused").inc(len(outcomes) - num_scored)

    def refuse_probes(self) -> None:
        """Let `/ready` say that the server stops; it is called in a signal handler."""
        self.is_ready = False

    async def close(self) -> None:
        """Wait for the images that were taken, and end the threads."""
        await self._batcher.close()
        await asyncio.gather(*self._closing)
        self._parsers.shutdown(wait=False, cancel_futures=True)
