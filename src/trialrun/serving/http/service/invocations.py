"""`/invocations`: MLflow's own parser and formatter around the server's batches."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from trialrun.scoring.scores import ImageScore
from trialrun.serving import ImageModel
from trialrun.serving.http.requests.admission import Admission
from trialrun.serving.http.requests.decoding import Refusal
from trialrun.serving.http.requests.problems import BAD_REQUEST, FAILED, UNSUPPORTED, RequestError
from trialrun.serving.http.service.batcher import Batcher, Outcome

_logger = logging.getLogger("trialrun.serve")
_FALLBACK = "the input cannot be parsed"


class BatchedModel(ImageModel):
    """MLflow's interface to a model whose images share batches with other requests.

    One object serves one request. `refusal` is why the server itself refused it: MLflow's parser
    replaces every exception, so it is kept here. `outcomes` are those of its images.
    """

    def __init__(
        self, batcher: Batcher, admission: Admission, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(batcher.model.network, batcher.model.threshold)
        self.refusal: Exception | None = None
        self.outcomes: list[Outcome] = []
        self._batcher, self._admission, self._loop = batcher, admission, loop

    def _compute(self, data: "list[bytes | None]") -> list[ImageScore]:
        if not data:
            self.refusal = RequestError(BAD_REQUEST, "the input has no images")
            raise self.refusal
        images = [image or b"" for image in data]  # the reason of a missing one is known already
        future = asyncio.run_coroutine_threadsafe(self._score_admitted(images), self._loop)
        try:
            self.outcomes = future.result()
        except Exception as error:
            self.refusal = error
            raise
        return [_as_score(outcome) for outcome in self.outcomes]

    async def _score_admitted(self, images: list[bytes]) -> list[Outcome]:
        with self._admission.hold_images(len(images)):
            return await self._batcher.score(images)


def _as_score(outcome: Outcome) -> ImageScore:
    return ImageScore(None, outcome.reason) if isinstance(outcome, Refusal) else outcome


def invoke(
    model: BatchedModel, read_metadata: Callable[[], Any], body: bytes, content_type: str
) -> bytes:
    """Return the JSON that MLflow's server returns for this body; waits for the scores.

    Raises:
        InvocationError: The input is invalid; the response is the one of MLflow's server.
        RequestError: The server refuses the request.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import PyFuncModel, scoring_server

    metadata = read_metadata()
    try:
        response = scoring_server.invocations(
            body, content_type, PyFuncModel(metadata, model), metadata.get_input_schema()
        )
    except Exception as error:
        if model.refusal is not None:
            raise model.refusal from None
        if isinstance(error, MlflowException) and error.get_http_status_code() < FAILED:
            raise InvocationError(error.error_code, error.message) from None
        _logger.info("a request was not understood", exc_info=error)
        raise InvocationError("BAD_REQUEST", _FALLBACK) from None
    if response.status == UNSUPPORTED:
        raise RequestError(UNSUPPORTED, response.response)
    text: str = response.response
    return text.encode()


class InvocationError(Exception):
    """An input that MLflow's server responds to with 400 and a JSON of code and message."""

    status = BAD_REQUEST

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def to_json(self) -> str:
        """Return the response's text."""
        return json.dumps({"error_code": self.code, "message": str(self)})
