"""Answer requests with one model: predictions, the model's card, its figures."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import json
import time
from typing import Annotated, Any, Literal, get_args

import numpy as np
from fastapi import Query, Request, Response
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from starlette.exceptions import HTTPException
from torch import Tensor

from ..analysis import to_png
from ..analysis.explain import maps, overlay
from ..analysis.figures import weight_figures
from ..inference import Predictor, inference_model
from ..models import MlpMixer
from .batcher import Answer, Batcher
from .forms import Question, read_question
from .limits import Bodies, Limits, busy

Figure = Literal["token_units", "embeddings"]


class Service:
    """One model behind the routes; each public method answers one of them.

    Attributes:
        batcher: Computes the pictures of all clients.
        registry: The metrics.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        """Start the threads, and answer a first picture.

        Args:
            predictor: The model, its preprocessing and its class names.
            limits: What a client may ask for.

        Raises:
            UserError: The model has no classifier.
        """
        self._predictor = predictor
        self._limits = limits
        self._preprocess = predictor.checkpoint.preprocess
        _warm_up(predictor)
        # The method is looked up at each call, which tests replace.
        self.batcher = Batcher(
            self._preprocess, lambda x_BCHW: predictor.logits(x_BCHW), limits
        )
        self._bodies = Bodies(limits)
        # One explanation or figure at a time: each costs as much as many pictures.
        self._costly = asyncio.Lock()
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
        """Classify one picture (the body, or base64 in JSON), or several (a form)."""
        started = time.perf_counter()
        async with self._bodies.read(request) as body:
            question = await read_question(
                request, body, top, explain, self._limits.files
            )
            async with asyncio.timeout(self._limits.seconds):
                predictions = await self._answer(question)
        seconds = time.perf_counter() - started
        return json_response(
            {"predictions": predictions, "milliseconds": round(1000 * seconds, 3)}
        )

    async def _answer(self, question: Question) -> list[dict[str, Any]]:
        pictures = [data for _, data in question.pictures]
        futures = map(asyncio.wrap_future, self.batcher.submit(pictures))
        results = await asyncio.gather(*futures, return_exceptions=True)
        # The fault of a single picture is the status of the whole request.
        if len(results) == 1 and isinstance(results[0], HTTPException):
            raise results[0]
        answers = []
        for (name, _), result in zip(question.pictures, results, strict=True):
            answers.append(await self._answer_one(name, result, question))
        return answers

    async def _answer_one(
        self, name: str, result: Answer | BaseException, question: Question
    ) -> dict[str, Any]:
        """Return a `Prediction` or a `Fault` as plain values."""
        if isinstance(result, HTTPException):
            return {"path": name, "error": result.detail}
        if isinstance(result, BaseException):
            raise result
        seen_CHW, logits_K = result
        answer = self._predictor.prediction(name, logits_K, question.top).to_dict()
        if question.explain:
            async with self._costly:
                answer["explanation"] = await asyncio.to_thread(
                    _explanation, self._predictor, seen_CHW, answer["top"][0]["label"]
                )
        return answer

    async def healthz(self) -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "alive"}

    async def readyz(self) -> dict[str, str]:
        """Say whether another picture would be taken in."""
        if not self.batcher.ready:
            raise busy("no picture can be taken in just now")
        return {"status": "ready"}

    async def card(self) -> dict[str, Any]:
        """Describe the model: classes, preprocessing, provenance, and the limits."""
        model = self._predictor.model
        origin = dict(self._predictor.checkpoint.provenance)
        name = origin.get("name") or origin.get("model") or type(model).__name__
        # Which images it has learnt from is for evaluations, and long.
        origin.pop("seen", None)
        if "file" in origin:
            # Not the folder: a path of the server is nobody's business.
            origin["file"] = origin["file"].rpartition("/")[2]
        is_mixer = isinstance(model, MlpMixer)
        return {
            "name": str(name),
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "labels": self._predictor.labels,
            "score_kind": self._predictor.score_kind,
            "min_score": self._predictor.min_score,
            "config": dataclasses.asdict(model.config),
            "preprocess": dataclasses.asdict(self._preprocess),
            "provenance": origin,
            "figures": get_args(Figure) if is_mixer else (),
            "limits": {
                "bytes": self._limits.max_bytes,
                "pixels": self._limits.max_pixels,
                "files": self._limits.files,
            },
        }

    async def figure(self, name: Figure) -> Response:
        """Draw weights: the paper's Figure 5 (token_units) or 7 (embeddings)."""
        if not isinstance(self._predictor.model, MlpMixer):
            raise HTTPException(
                404,
                "there are figures of Mixers only, and this network is of another "
                "family",
            )
        async with self._costly:
            figures = await asyncio.to_thread(lambda: self._figures)
        return Response(figures[name], media_type="image/png")

    @functools.cached_property
    def _figures(self) -> dict[str, bytes]:
        pictures = weight_figures(self._predictor.model)
        return {name: to_png(picture) for name, picture in pictures.items()}

    async def metrics(self) -> Response:
        """Write the metrics for Prometheus."""
        text = generate_latest(self.registry)
        return Response(text, media_type="text/plain; version=0.0.4")


def json_response(value: Any, status: int = 200, headers: Any = None) -> Response:
    """Return a response in JSON.

    Args:
        value: Plain values; NaN would be a mistake of ours.
        status: Of the response.
        headers: Further ones.
    """
    text = json.dumps(value, allow_nan=False)
    return Response(text, status, headers, "application/json")


def _warm_up(predictor: Predictor) -> None:
    """Answer a blank picture: then the model can, and the first client does not wait."""
    preprocess = predictor.checkpoint.preprocess
    blank = np.zeros((*preprocess.image_size, preprocess.channels), np.uint8)
    inference_model(predictor, blank)


def _explanation(predictor: Predictor, seen_CHW: Tensor, label: int) -> str:
    """Draw an occlusion map over what the network saw, as a PNG data URL."""
    record = predictor.checkpoint.preprocess
    # Back from the network's numbers to pixels: the file itself is gone by now.
    pixels = 255 * (seen_CHW.permute(1, 2, 0).numpy() * record.std + record.mean)
    x_BCHW = seen_CHW[None].to(predictor.device)
    heat = maps(predictor.model, x_BCHW, label, "occlusion")
    png = base64.b64encode(to_png(overlay(pixels, heat))).decode()
    return f"data:image/png;base64,{png}"
