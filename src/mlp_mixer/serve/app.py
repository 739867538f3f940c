"""Assemble the application: routes, refusals, headers, and the page."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Collection
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._version import __version__
from ..inference import Predictor
from .forms import BODY, Answers, Fault
from .headers import HEADERS
from .hosts import is_allowed
from .limits import Limits, busy
from .service import Service, json_response

_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_PLAIN = {
    404: "there is nothing at this address",
    405: "this address does not take this method",
}
# A client's own text may be in them.
_LONGEST_FIELD = 60
_LONGEST_SENTENCE = 300


def create_app(
    predictor: Predictor, limits: Limits | None = None, hosts: Collection[str] = ("*",)
) -> ASGIApp:
    """Return the application, for any ASGI server.

    Args:
        predictor: The model, its preprocessing and its class names.
        limits: What a client may ask for.
        hosts: The names in the Host header that are answered, as `hosts.is_allowed`
            takes them; all by default.

    Raises:
        UserError: The model has no classifier.
    """
    service = Service(predictor, limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    # The interactive documentation of FastAPI loads scripts from another host.
    app = FastAPI(
        title="mlp-mixer",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # A redirect would send a client to whatever its Host header says.
        redirect_slashes=False,
    )
    for fault in (HTTPException, RequestValidationError, TimeoutError, Exception):
        app.add_exception_handler(fault, _refusal)
    _add_routes(app, service)
    _add_page(app)
    known = _of_known_hosts(app, frozenset(host.lower() for host in hosts))
    return _observed(known, service.registry)


def _of_known_hosts(app: ASGIApp, hosts: frozenset[str]) -> ASGIApp:
    """Refuse requests that name another host."""

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # HTTP/1.0 has no such header, and no browser speaks it.
            for header, value in scope["headers"]:
                if header == b"host" and not is_allowed(value.decode("latin-1"), hosts):
                    sentence = (
                        "this server has another name: start it with --allowed-hosts if "
                        "it should answer to this one"
                    )
                    refusal = json_response({"error": sentence}, 400)
                    await refusal(scope, receive, send)
                    return
        await app(scope, receive, send)

    return known


def _add_routes(app: FastAPI, service: Service) -> None:
    refusals: dict[int | str, Any] = {"default": {"model": Fault}}
    route = functools.partial(app.add_api_route, responses=refusals)
    route(
        "/predict",
        service.predict,
        methods=["POST"],
        response_model=Answers,
        openapi_extra={"requestBody": {"required": True, "content": BODY}},
    )
    route("/healthz", service.healthz)
    route("/readyz", service.readyz)
    # What KServe and Triton call them.
    route("/v2/health/live", service.healthz)
    route("/v2/health/ready", service.readyz)
    route("/model", service.card)
    route("/figures/{name}.png", service.figure, response_class=Response)
    route("/metrics", service.metrics, response_class=Response)


def _add_page(app: FastAPI) -> None:
    assert __package__
    folder = resources.files(__package__)
    for address, (file, kind) in _PAGE.items():
        content = (folder / file).read_bytes()
        answer = functools.partial(_page, content, kind)
        app.add_route(address, answer, include_in_schema=False)


async def _page(content: bytes, kind: str, request: Request) -> Response:
    return Response(content, media_type=kind)


def _observed(app: ASGIApp, registry: CollectorRegistry) -> ASGIApp:
    """Add headers to every answer of an application, count it and time it."""
    seconds = Histogram(
        "mlp_mixer_request_seconds",
        "until the answer begins",
        ["status"],
        registry=registry,
    )
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    # Plain ASGI: Starlette's BaseHTTPMiddleware starts a task for each request.
    async def observed(scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                seconds.labels(message["status"]).observe(time.perf_counter() - started)
                message["headers"] += headers
            await send(message)

        try:
            await app(scope, receive, sent)
        except asyncio.CancelledError:
            # The server ends, and its grace is over.
            if scope["type"] != "http" or begun:
                raise
            refusal = _as_response(busy("the server is ending"))
            await refusal(scope, receive, sent)

    return observed


async def _refusal(request: Request, error: Exception) -> Response:
    """Return any error as one sentence with its status.

    A mistake of ours goes on to the log with its traceback.
    """
    if isinstance(error, HTTPException):
        return _as_response(error)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))[:_LONGEST_FIELD]
        sentence = f"{field} is wrong: {first['msg']}"[:_LONGEST_SENTENCE]
        return json_response({"error": sentence}, 422)
    if isinstance(error, TimeoutError):
        sentence = (
            "the answer takes too long, too much is asked at once; try again later"
        )
        return json_response({"error": sentence}, 504)
    sentence = "the server made a mistake, and its log says which"
    return json_response({"error": sentence}, 500)


def _as_response(error: HTTPException) -> Response:
    sentence = error.detail
    if sentence in ("Not Found", "Method Not Allowed"):
        sentence = _PLAIN.get(error.status_code, sentence)
    return json_response({"error": sentence}, error.status_code, error.headers)
