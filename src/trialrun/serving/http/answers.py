"""The responses of the server: their schemas for OpenAPI, and their JSON.

The schemas document the responses. The JSON is formatted from plain values: validating thousands
of probabilities per second would take longer than the network.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from trialrun.scoring.labels import LabelRule
from trialrun.scoring.scores import ImageScore
from trialrun.serving.http.requests.decoding import Refusal
from trialrun.serving.http.requests.multipart import Upload
from trialrun.serving.http.service.batcher import Outcome
from trialrun.serving.http.service.model import OpenModel


class Problem(BaseModel):
    """A request that was refused."""

    status: int = Field(description="The HTTP status of the response.")
    reason: str = Field(description="Why the request was refused.")


class ImageResult(BaseModel):
    """One image: its class and probabilities, or `status` and `reason` if it has none."""

    name: str = Field(description="The file name in a multipart request; empty for a raw body.")
    label: str | None = Field(
        None,
        description="The class with the highest probability; `unknown` if the model abstains.",
    )
    confidence: float | None = Field(None, description="The highest probability.")
    probabilities: dict[str, float] | None = Field(
        None, description="Probabilities by class; with `top`, of the best classes, best first."
    )
    status: int | None = Field(None, description="415: not an image; 422: cannot be decoded.")
    reason: str | None = Field(None, description="Why the image has no class.")


class ModelName(BaseModel):
    """The model that computed a response."""

    name: str
    version: str = Field(description="Empty for a model that is not a registered version.")


class Prediction(BaseModel):
    """The classes of the images of a request, in their order."""

    model: ModelName
    images: list[ImageResult]


class Health(BaseModel):
    """The state of the server."""

    status: str


class ServerError(BaseModel):
    """An error in the format of MLflow's server."""

    error_code: str
    message: str


class Scores(BaseModel):
    """The response of MLflow's server: one row per image."""

    predictions: list[dict[str, float | str]]


def encode_json(values: object) -> bytes:
    """Return values as compact JSON."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


def format_prediction(
    model: OpenModel, uploads: Sequence[Upload], outcomes: Sequence[Outcome], top: int | None
) -> dict[str, Any]:
    """Return the values of a `Prediction`."""
    images = [
        {"name": upload.name} | _format_outcome(model, outcome, top)
        for upload, outcome in zip(uploads, outcomes, strict=True)
    ]
    return {"model": {"name": model.name, "version": model.version}, "images": images}


def _format_outcome(model: OpenModel, outcome: Outcome, top: int | None) -> dict[str, Any]:
    if isinstance(outcome, Refusal):
        return {"status": outcome.status, "reason": outcome.reason}
    probabilities = _read_probabilities(outcome)
    return {
        "label": LabelRule(model.network.classes, model.threshold).choose(probabilities),
        "confidence": float(probabilities.max()),
        "probabilities": _name_probabilities(model.network.classes, probabilities, top),
    }


def _read_probabilities(score: ImageScore) -> NDArray[np.float32]:
    assert score.probabilities is not None
    return score.probabilities


def _name_probabilities(
    classes: Sequence[str], probabilities: NDArray[np.float32], top: int | None
) -> dict[str, float]:
    values: list[float] = probabilities.tolist()
    if top is None:
        return dict(zip(classes, values, strict=True))
    best = np.argsort(-probabilities, kind="stable")[:top]
    return {classes[index]: values[index] for index in best}


def choose_status(outcomes: Sequence[Outcome]) -> int:
    """Return 200 if every image has a class, else the status of the first one without."""
    return next((item.status for item in outcomes if isinstance(item, Refusal)), 200)
