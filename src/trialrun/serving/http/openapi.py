"""The parts of the OpenAPI description that FastAPI cannot derive: bodies, refusals, the token."""

from typing import Any

from fastapi import FastAPI

from trialrun.serving.http.answers import Problem
from trialrun.serving.http.guard import PUBLIC_PATHS

_DESCRIPTIONS = {
    400: "The request is malformed",
    401: "The token is missing or wrong",
    408: "The body took too long",
    413: "The body is too large, or has too many images",
    415: "Unsupported content type",
    429: "The queue is full; try again",
    500: "The server failed",
    503: "The server is stopping",
}
_BINARY = {"type": "string", "format": "binary"}
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
_TEXT_IMAGE = {
    "type": "string",
    "format": "base64-image",
    "description": "The content of an image file as base64.",
}
_TEXT_IMAGES = {"type": "array", "items": _TEXT_IMAGE, "minItems": 1}
_RECORDS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {"image": _TEXT_IMAGE},
        "required": ["image"],
    },
}
_SPLIT = {
    "type": "object",
    "properties": {
        "columns": {"type": "array", "items": {"const": "image"}, "minItems": 1, "maxItems": 1},
        "data": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "items": _TEXT_IMAGE, "minItems": 1, "maxItems": 1},
        },
    },
    "required": ["columns", "data"],
    "additionalProperties": False,
}

PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            **{kind: {"schema": _BINARY} for kind in _IMAGE_TYPES},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": _BINARY, "minItems": 1}},
                    "required": ["images"],
                    "additionalProperties": False,
                }
            },
        },
    }
}


def _describe_json(key: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {key: value}, "required": [key]}


INVOCATIONS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        _describe_json("inputs", _TEXT_IMAGES),
                        _describe_json("instances", _TEXT_IMAGES),
                        _describe_json("dataframe_records", _RECORDS),
                        _describe_json("dataframe_split", _SPLIT),
                    ]
                }
            },
            "text/csv": {
                "schema": {"type": "string", "description": "A column `image` of base64."}
            },
            "application/vnd.apache.parquet": {"schema": _BINARY},
        },
    }
}


def describe_refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of responses that refuse a request."""
    return {status: {"model": Problem, "description": _DESCRIPTIONS[status]} for status in statuses}


def add_token_scheme(app: FastAPI) -> None:
    """Describe the token that every path but the public ones needs."""
    description = app.openapi()
    schemes = description.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["token"] = {"type": "http", "scheme": "bearer"}
    for path, operations in description["paths"].items():
        if path not in PUBLIC_PATHS:
            for operation in operations.values():
                operation["security"] = [{"token": []}]
