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
from ..analysis.explain import maps, overlay, veil
from ..analysis.figures import weight_figures
from ..config import recorded
from ..inference import Predictor, inference_model
from ..models import MlpMixer
from .batcher import Answer, Batcher
from .forms import Question, read_question
from .limits import Bodies, Limits, busy, without_frames
from .threads import Threads

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
        # One explanation or figure at a time: each costs as much as many pictures. A
        # request that is given up leaves its place, but one that runs stays alone.
        self._costly = Threads(1, "explain")
        # Figures by whether they are dark; weights do not change.
        self._drawn: dict[bool, dict[str, bytes]] = {}
        self.registry = CollectorRegistry()
        for name in ("waiting", "computed", "batches"):
            gauge = Gauge(
                f"mlp_mixer_pictures_{name}",
                f"pictures: {name}",
                registry=self.registry,
            )
            gauge.set_function(functools.partial(getattr, self.batcher, name))
        starts = Gauge(
            "mlp_mixer_decoder_starts",
            "processes that decode pictures, started so far",
            registry=self.registry,
        )
        starts.set_function(lambda: self.batcher.decoder_starts)

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
            # Of JSON and forms, what counts as held are the pictures from here on.
            del body
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
            raise without_frames(results[0])
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
        prediction = self._predictor.prediction(name, result.logits, question.top)
        answer = prediction.to_dict()
        if question.explain:
            label = answer["top"][0]["label"]
            explain = functools.partial(
                _explanation, self._predictor, result.seen, label
            )
            answer |= await asyncio.wrap_future(self._costly.submit(explain))
            answer["explanation_box"] = list(result.box)
        return answer

    async def healthz(self) -> dict[str, str]:
        """Say that everything runs which answers a picture."""
        if not (self.batcher.alive and self._costly.alive):
            raise busy("a part of the server has ended")
        return {"status": "alive"}

    def close(self) -> None:
        """Answer what was taken in, then stop all threads and processes."""
        self.batcher.close()
        self._costly.close(0)

    async def readyz(self) -> dict[str, str]:
        """Say whether another picture would be taken in."""
        if not self.batcher.ready:
            raise busy("no picture can be taken in just now")
        return {"status": "ready"}

    async def card(self) -> dict[str, Any]:
        """Describe the model: classes, preprocessing, provenance, and the limits."""
        model = self._predictor.model
        # Also that of earlier versions, which recorded addresses as they were typed.
        origin = recorded(dict(self._predictor.checkpoint.provenance))
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
            "computed": self._predictor.engine.record(),
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

    async def figure(self, name: Figure, dark: bool = False) -> Response:
        """Draw weights: the paper's Figure 5 (token_units) or 7 (embeddings).

        With `dark` in the colours of a dark page.
        """
        if not isinstance(self._predictor.model, MlpMixer):
            raise HTTPException(
                404,
                "there are figures of Mixers only, and this network is of another "
                "family",
            )
        draw = functools.partial(self._figures, dark)
        async with asyncio.timeout(self._limits.seconds):
            figures = await asyncio.wrap_future(self._costly.submit(draw))
        return Response(figures[name], media_type="image/png")

    def _figures(self, dark: bool) -> dict[str, bytes]:
        if dark not in self._drawn:
            pictures = weight_figures(self._predictor.model, dark=dark)
            files = {name: to_png(picture) for name, picture in pictures.items()}
            self._drawn[dark] = files
        return self._drawn[dark]

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


def _explanation(predictor: Predictor, seen_CHW: Tensor, label: int) -> dict[str, str]:
    """Draw an occlusion map, over what the network saw and alone, as PNG data URLs."""
    record = predictor.checkpoint.preprocess
    # Back from the network's numbers to pixels: the file itself is gone by now.
    pixels = 255 * (seen_CHW.permute(1, 2, 0).numpy() * record.std + record.mean)
    x_BCHW = seen_CHW[None].to(predictor.device)
    heat = maps(predictor.model, x_BCHW, label, "occlusion")
    return {
        "explanation": _data_url(to_png(overlay(pixels, heat))),
        "explanation_map": _data_url(to_png(veil(heat))),
    }


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
