"""The application: its paths, and the OpenAPI description of their requests and responses."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from trialrun.config.serve import ServeConfig
from trialrun.serving.http.answers import (
    Health,
    Prediction,
    Problem,
    Scores,
    ServerError,
    choose_status,
    encode_json,
    format_prediction,
)
from trialrun.serving.http.metrics import Metrics
from trialrun.serving.http.openapi import (
    INVOCATIONS_BODY,
    PREDICT_BODY,
    add_token_scheme,
    describe_refusals,
)
from trialrun.serving.http.requests.bodies import receive_body
from trialrun.serving.http.requests.decoding import Refusal
from trialrun.serving.http.requests.multipart import Upload, parse_multipart
from trialrun.serving.http.requests.problems import (
    BAD_REQUEST,
    FAILED,
    UNAVAILABLE,
    UNPROCESSABLE,
    UNSUPPORTED,
    RequestError,
)
from trialrun.serving.http.service.invocations import InvocationError
from trialrun.serving.http.service.model import ModelSource, OpenModel
from trialrun.serving.http.service.reload import follow_alias
from trialrun.serving.http.service.service import Service

_JSON = "application/json"
_MULTIPART = "multipart/form-data"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_INTERNAL = "the server failed; its log has the reason"


def make_app(
    model: OpenModel, source: ModelSource, config: ServeConfig, metrics: Metrics, *, has_token: bool
) -> FastAPI:
    """Return the application that serves `model`, which was opened from `source`."""

    @asynccontextmanager
    async def run_service(app: FastAPI) -> AsyncIterator[None]:
        service = app.state.service = Service(model, config, metrics)
        async with follow_alias(service, source):
            service.is_ready = True
            yield
        await service.close()

    app = FastAPI(
        title="trialrun serve",
        summary="Classes of images.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=run_service,
        redirect_slashes=False,
    )
    _add_paths(app)
    _add_pages(app)
    _add_error_handlers(app)
    if has_token:
        add_token_scheme(app)
    return app


def _add_paths(app: FastAPI) -> None:
    images: Any = Problem | Prediction
    app.post(
        "/predict",
        response_model=Prediction,
        responses=describe_refusals(400, 401, 408, 413, 429, 500, 503)
        | {
            415: {"model": images, "description": "Not an image, or another content type"},
            422: {"model": images, "description": "Cannot be decoded, or has too many pixels"},
        },
        openapi_extra=PREDICT_BODY,
    )(predict)
    app.post(
        "/invocations",
        response_model=Scores,
        responses=describe_refusals(401, 408, 413, 415, 429, 500, 503)
        | {400: {"model": ServerError | Problem, "description": "The input is invalid"}},
        openapi_extra=INVOCATIONS_BODY,
    )(invocations)
    app.get("/health", response_model=Health)(health)
    app.get("/ping", response_model=Health, include_in_schema=False)(health)
    app.get("/ready", response_model=Health, responses=describe_refusals(503))(ready)
    app.get(
        "/metrics",
        response_class=Response,
        responses=describe_refusals(401)
        | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )(read_metrics)


async def predict(
    request: Request,
    top: Annotated[
        int, Query(ge=0, le=1_000_000, description="Best classes to return; 0 returns all.")
    ] = 0,
) -> Response:
    """Classify the images of a request: one as the body itself, or several as multipart.

    Each part of a multipart body is a file in the field `images`. The status is 200 if every image
    has a class, else that of the first image without one; the body has all results.
    """
    service = _get_service(request)
    content_type = request.headers.get("content-type", "")
    kind = _check_image_type(content_type)
    async with receive_body(request, service.admission) as body:
        if kind != _MULTIPART:
            return await _predict_one(service, body, top or None)
        uploads = parse_multipart(body, content_type, service.admission.max_images)
        return await _predict_several(service, uploads, top or None)


def _get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _check_image_type(content_type: str) -> str:
    kind = content_type.partition(";")[0].strip().lower()
    if kind in (_MULTIPART, "application/octet-stream") or kind.startswith("image/"):
        return kind
    found = f"content type {kind}" if kind else "no content type"
    raise RequestError(
        UNSUPPORTED, f"{found}; send image/*, application/octet-stream or {_MULTIPART}"
    )


async def _predict_one(service: Service, body: bytes, top: int | None) -> Response:
    uploads = [Upload("", body)]
    model, outcomes = await service.score(uploads)
    if isinstance(refusal := outcomes[0], Refusal):
        raise RequestError(refusal.status, refusal.reason)
    return Response(encode_json(format_prediction(model, uploads, outcomes, top)), 200, None, _JSON)


async def _predict_several(service: Service, uploads: list[Upload], top: int | None) -> Response:
    if not uploads:
        raise RequestError(UNPROCESSABLE, "the request has no images")
    model, outcomes = await service.score(uploads)
    content = encode_json(format_prediction(model, uploads, outcomes, top))
    return Response(content, choose_status(outcomes), None, _JSON)


async def invocations(request: Request) -> Response:
    """Score images as MLflow's server does: the same requests, the same responses."""
    service = _get_service(request)
    content_type = request.headers.get("content-type")
    if not content_type:
        raise RequestError(UNSUPPORTED, "no content type; send application/json or text/csv")
    async with receive_body(request, service.admission) as body:
        content = await service.invoke(body, content_type)
    return Response(content, 200, None, _JSON)


async def health() -> Response:
    """Respond while the process lives."""
    return Response(encode_json({"status": "alive"}), 200, None, _JSON)


async def ready(request: Request) -> Response:
    """Respond with 200 if the server takes requests."""
    if not _get_service(request).is_ready:
        raise RequestError(UNAVAILABLE, "the server is stopping")
    return Response(encode_json({"status": "ready"}), 200, None, _JSON)


async def read_metrics(request: Request) -> Response:
    """Return the metrics in the format of Prometheus."""
    text, content_type = _get_service(request).metrics.format_text()
    return Response(text, 200, {"Content-Type": content_type})


def _add_pages(app: FastAPI) -> None:
    for path, name in (("/", "page.html"), ("/docs", "openapi.html")):
        text = Path(__file__).with_name(name).read_text("utf-8")
        show = partial(HTMLResponse, text, 200, _PAGE_HEADERS)
        app.get(path, include_in_schema=False)(_make_page(show))


def _make_page(show: Callable[[], HTMLResponse]) -> Callable[[], Any]:
    async def page() -> HTMLResponse:
        return show()

    return page


def _add_error_handlers(app: FastAPI) -> None:
    async def refuse(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return _format_problem(error.status, str(error), error.headers)

    async def refuse_parameter(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        reasons = [f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()]
        return _format_problem(UNPROCESSABLE, "; ".join(reasons))

    async def refuse_route(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _format_problem(error.status_code, str(error.detail), dict(error.headers or {}))

    async def refuse_input(_request: Request, error: Exception) -> Response:
        assert isinstance(error, InvocationError)
        return Response(error.to_json(), BAD_REQUEST, None, _JSON)

    async def report_failure(_request: Request, _error: Exception) -> Response:
        return _format_problem(FAILED, _INTERNAL)  # uvicorn logs the traceback

    app.add_exception_handler(RequestError, refuse)
    app.add_exception_handler(RequestValidationError, refuse_parameter)
    app.add_exception_handler(HTTPException, refuse_route)
    app.add_exception_handler(InvocationError, refuse_input)
    app.add_exception_handler(Exception, report_failure)


def _format_problem(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return Response(encode_json({"status": status, "reason": reason}), status, headers, _JSON)
