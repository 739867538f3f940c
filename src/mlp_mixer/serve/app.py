"""The routes: pictures in, answers out as JSON; health, metrics, the model's card, its
figures, and the page.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import AsyncIterator
from importlib import resources
from typing import Annotated, Any, Literal, get_args

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from .._version import __version__
from ..analysis import to_png
from ..analysis.figures import weight_figures
from ..inference.predictor import Prediction, Predictor, inference_model
from ..models.mixer import MixerConfig
from .batcher import Answer, Batcher
from .limits import Bodies, Limits, busy

Figure = Literal["token_units", "embeddings"]
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


class Encoded(BaseModel, extra="forbid"):
    """A picture inside JSON: the bytes of its file in base64."""

    image: str = Field(min_length=1, json_schema_extra={"contentEncoding": "base64"})
    top: int = Field(5, ge=1, le=1000)
    explain: bool = False


class Fault(BaseModel):
    """Why there is no answer, in one sentence; `path` where it is one of several
    pictures.
    """

    error: str
    path: str | None = None


class Answers(BaseModel):
    """For each picture what `Predictor` says, with `explanation`, a PNG data URL, if
    one was asked for.
    """

    predictions: list[Prediction | Fault]
    milliseconds: float


_FILE: dict[str, Any] = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "properties": {"file": {"type": "array", "items": _FILE, "minItems": 1}},
}
_BODY = {
    kind: {"schema": _FILE}
    for kind in ("application/octet-stream", "image/jpeg", "image/png", "image/webp")
}
_BODY |= {"multipart/form-data": {"schema": _FORM | {"required": ["file"]}}}
_BODY |= {"application/json": {"schema": Encoded.model_json_schema()}}


class _Service:
    """One model behind the routes; each method answers one of them."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor = predictor
        self.limits = limits
        self.model = predictor.model
        self.preprocess = predictor.checkpoint.preprocess
        self.origin = predictor.checkpoint.provenance
        blank = np.zeros(
            (*self.preprocess.image_size, self.preprocess.channels), np.uint8
        )
        inference_model(predictor, blank)  # it can, and is warm
        self.batcher = Batcher(
            self.preprocess, lambda x: predictor._logits(x.to(predictor.device)), limits
        )
        self.bodies = Bodies(limits)
        self.aside = asyncio.Lock()
        self.registry = CollectorRegistry()
        for name in ("waiting", "computed", "batches"):
            gauge = Gauge(
                f"mlp_mixer_pictures_{name}",
                f"pictures: {name}",
                registry=self.registry,
            )
            gauge.set_function(functools.partial(getattr, self.batcher, name))

    async def predict(
        self,
        request: Request,
        top: Annotated[int, Query(ge=1, le=1000)] = 5,
        explain: bool = False,
    ) -> Response:
        """Classify one picture (the body, or base64 in JSON), or several (multipart
        fields `file`).
        """
        started = time.perf_counter()
        body = await self.bodies.read(request)
        try:
            pictures, top, explain = await _pictures(
                request, body, top, explain, self.limits.files
            )
            async with asyncio.timeout(self.limits.seconds):
                futures = map(
                    asyncio.wrap_future,
                    self.batcher.submit([data for _, data in pictures]),
                )
                results = await asyncio.gather(*futures, return_exceptions=True)
                if len(results) == 1 and isinstance(results[0], HTTPException):
                    raise results[0]
                named = zip(pictures, results, strict=True)
                answers = [
                    await self._answer(name, result, top, explain)
                    for (name, _), result in named
                ]
        finally:
            self.bodies.held -= len(body)
        return _json(
            {
                "predictions": answers,
                "milliseconds": round(1000 * (time.perf_counter() - started), 3),
            }
        )

    async def _answer(
        self, name: str, result: Answer | BaseException, top: int, explain: bool
    ) -> dict[str, Any]:
        """What is said of one picture of several: a `Prediction` or a `Fault`."""
        if isinstance(result, HTTPException):
            return {"path": name, "error": result.detail}
        if isinstance(result, BaseException):
            raise result
        answer = self.predictor.prediction(name, result[1], top).to_dict()
        if explain:
            async with (
                self.aside
            ):  # one at a time, for each costs as much as many pictures
                work = functools.partial(
                    _explanation, self.predictor, result[0], answer["pred_label"]
                )
                answer["explanation"] = await asyncio.to_thread(work)
        return answer

    async def healthz(self) -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    async def readyz(self) -> dict[str, str]:
        """Another picture would be taken in."""
        if not self.batcher.ready:
            raise busy("no picture can be taken in just now")
        return {"status": "ready"}

    async def card(self) -> dict[str, Any]:
        """What answers: classes, architecture, preprocessing, provenance, and what may
        be sent.
        """
        origin = self.origin
        limits = self.limits
        return {
            "name": str(
                origin.get("name") or origin.get("model") or type(self.model).__name__
            ),
            "parameters": sum(
                parameter.numel() for parameter in self.model.parameters()
            ),
            "labels": self.predictor.labels,
            "score_kind": self.predictor.score_kind,
            "config": dataclasses.asdict(self.model.config),
            "preprocess": dataclasses.asdict(self.preprocess),
            "provenance": origin
            | ({"file": origin["file"].rpartition("/")[2]} if "file" in origin else {}),
            "figures": get_args(Figure)
            if isinstance(self.model.config, MixerConfig)
            else (),
            "limits": {
                "bytes": limits.max_bytes,
                "pixels": limits.max_pixels,
                "files": limits.files,
            },
        }

    async def figure(self, name: Figure) -> Response:
        """The weights as a picture: the paper's Figure 5 (token_units) or 7
        (embeddings).
        """
        if not isinstance(self.model.config, MixerConfig):
            raise HTTPException(
                404,
                "there are figures of Mixers only, and this network is of another family",
            )
        async with self.aside:
            return Response(
                (await asyncio.to_thread(lambda: self._figures))[name],
                media_type="image/png",
            )

    @functools.cached_property
    def _figures(self) -> dict[str, bytes]:
        return {
            name: to_png(picture)
            for name, picture in weight_figures(self.model).items()
        }

    async def metrics(self) -> Response:
        """For Prometheus."""
        return Response(
            generate_latest(self.registry), media_type="text/plain; version=0.0.4"
        )


def create_app(predictor: Predictor, limits: Limits | None = None) -> ASGIApp:
    """The application, for any ASGI server; `UserError` for a model without classes."""
    service = _Service(predictor, limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.close)

    app = FastAPI(
        title="mlp-mixer",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    for fault in (HTTPException, RequestValidationError, TimeoutError, Exception):
        app.add_exception_handler(fault, _refusal)
    route = functools.partial(
        app.add_api_route, responses={"default": {"model": Fault}}
    )
    asked = {"requestBody": {"required": True, "content": _BODY}}
    route(
        "/predict",
        service.predict,
        methods=["POST"],
        response_model=Answers,
        openapi_extra=asked,
    )
    route("/healthz", service.healthz)
    route("/readyz", service.readyz)
    route("/model", service.card)
    route("/figures/{name}.png", service.figure, response_class=Response)
    route("/metrics", service.metrics, response_class=Response)
    for path, file, kind in (
        ("/", "html", "html"),
        ("/page.css", "css", "css"),
        ("/page.js", "js", "javascript"),
    ):
        content = (resources.files(__package__ or "") / f"page.{file}").read_bytes()
        app.add_route(
            path,
            functools.partial(_page, content, f"text/{kind}"),
            include_in_schema=False,
        )
    seconds = Histogram(
        "mlp_mixer_request_seconds",
        "until the answer begins",
        ["status"],
        registry=service.registry,
    )

    async def observed(scope: Scope, receive: Receive, send: Send) -> None:
        """The application, with headers for every answer, counted and timed."""
        started = time.perf_counter()

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds.labels(message["status"]).observe(time.perf_counter() - started)
                message["headers"] += [
                    (name.encode(), value.encode()) for name, value in _HEADERS.items()
                ]
            await send(message)

        await app(scope, receive, sent)

    return observed


def _json(value: Any, status: int = 200, headers: Any = None) -> Response:
    return Response(
        json.dumps(value, allow_nan=False), status, headers, "application/json"
    )


async def _page(content: bytes, kind: str, request: Request) -> Response:
    return Response(content, media_type=kind)


async def _refusal(request: Request, error: Exception) -> Response:
    """Any error as one sentence with its status; one of our own goes on to the log with
    its traceback.
    """
    if isinstance(error, HTTPException):
        ours = {
            404: "there is nothing at this address",
            405: "this address does not take this method",
        }
        plain = (
            ours.get(error.status_code)
            if error.detail in ("Not Found", "Method Not Allowed")
            else error.detail
        )
        return _json({"error": plain}, error.status_code, error.headers)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return _json(
            {
                "error": f"{'.'.join(map(str, first['loc']))} is wrong: {first['msg']}"[
                    :300
                ]
            },
            422,
        )
    if isinstance(error, TimeoutError):
        return _json(
            {
                "error": "the answer takes too long, too much is asked at once; try again later"
            },
            504,
        )
    return _json({"error": "the server made a mistake, and its log says which"}, 500)


async def _pictures(
    request: Request, body: bytes, top: int, explain: bool, most: int
) -> tuple[list[tuple[str, bytes]], int, bool]:
    """Names and bytes of the pictures in a request, whatever its form, with `top` and
    `explain`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            asked = Encoded.model_validate_json(body)
            return (
                [("picture", base64.b64decode(asked.image, validate=True))],
                asked.top,
                asked.explain,
            )
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        except ValueError as error:
            raise HTTPException(
                422, f"image is wrong: it is no base64 ({error})"
            ) from error
    if kind == "multipart/form-data":

        async def again() -> Message:
            return {"type": "http.request", "body": body}

        async with Request(request.scope, again).form(
            max_files=most, max_fields=most
        ) as form:
            files = [part for part in form.getlist("file") if not isinstance(part, str)]
            if files:
                return (
                    [(file.filename or "picture", await file.read()) for file in files],
                    top,
                    explain,
                )
        raise HTTPException(
            422, "the form has no picture: send it as a file in the field 'file'"
        )
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        return [("picture", body)], top, explain
    raise HTTPException(
        415,
        f"cannot read {kind[:60]!r}: send image/*, multipart/form-data, or JSON with base64",
    )


def _explanation(predictor: Predictor, seen: Tensor, label: int) -> str:
    """What the network saw, red where it spoke for the class and blue where against: a
    PNG data URL.
    """
    from ..analysis.explain import laid_over, maps

    record = predictor.checkpoint.preprocess
    pixels = 255 * (seen.permute(1, 2, 0).numpy() * record.std + record.mean)
    heat = maps(predictor.model, seen[None].to(predictor.device), label, "occlusion")
    return (
        "data:image/png;base64,"
        + base64.b64encode(to_png(laid_over(pixels, heat))).decode()
    )
