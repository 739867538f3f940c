"""From pictures to answers: a checkpoint's model, preprocessing and class names behind one call."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from .errors import UserError
from .images.decode import decode_image
from .weights import Checkpoint, load

Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Candidate:
    """One possible answer: class number, class name, probability."""

    label: int
    name: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture: the best class, and the best few in order."""

    path: str
    pred_label: int
    pred_class: str
    pred_score: float
    top: tuple[Candidate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Failure:
    """A picture that could not be read, and why."""

    path: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Predictor:
    """Classifies pictures with a checkpoint; an unreadable one becomes a `Failure` and does not end the run."""

    def __init__(self, checkpoint: Checkpoint | str | os.PathLike[str], *, device: str = "cpu", top: int = 5) -> None:
        """checkpoint: loaded, or its path. top: how many candidates to report. `UserError` if it cannot be loaded."""
        self.checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
        self.device = torch.device(device)
        self.model = self.checkpoint.model.to(self.device).eval()
        classes = self.model.config.num_classes
        if classes == 0:
            raise UserError("this checkpoint has no classifier, so it cannot name classes; use a fine-tuned one")
        self.labels = self.checkpoint.labels or tuple(f"class {number}" for number in range(classes))
        self.top = min(top, classes)

    def __call__(self, picture: Picture) -> Prediction:
        """The answer for one picture; `UserError` if it cannot be read."""
        answer = next(self.predict([picture]))
        if isinstance(answer, Failure):
            raise UserError(answer.error)
        return answer

    def predict(self, pictures: Iterable[Picture], *, batch_size: int = 32) -> Iterator[Prediction | Failure]:
        """Answers in the order of the pictures, computed `batch_size` at a time."""
        remaining = iter(pictures)
        for first in itertools.count(0, batch_size):
            chunk = list(itertools.islice(remaining, batch_size))
            if not chunk:
                return
            names = [_name(picture, first + offset) for offset, picture in enumerate(chunk)]
            yield from self._answer(names, [self._read(picture) for picture in chunk])

    def _read(self, picture: Picture) -> torch.Tensor | UserError:
        preprocess = self.checkpoint.preprocess
        source = Path(picture) if isinstance(picture, os.PathLike) else picture
        try:
            return preprocess(decode_image(source, channels=preprocess.channels))
        except UserError as error:
            return error

    @torch.inference_mode()
    def _answer(self, names: list[str], inputs: list[torch.Tensor | UserError]) -> list[Prediction | Failure]:
        good = [x for x in inputs if isinstance(x, torch.Tensor)]
        scores: Iterator[torch.Tensor] = iter(())
        if good:
            dtype = next(self.model.parameters()).dtype
            scores = iter(self.model(torch.stack(good).to(self.device, dtype)).float().softmax(dim=1).cpu())
        return [
            Failure(name, str(x)) if isinstance(x, UserError) else self._prediction(name, next(scores))
            for name, x in zip(names, inputs, strict=True)
        ]

    def _prediction(self, name: str, scores: torch.Tensor) -> Prediction:
        values, numbers = scores.topk(self.top)
        top = tuple(
            Candidate(number, self.labels[number], value)
            for number, value in zip(numbers.tolist(), values.tolist(), strict=True)
        )
        return Prediction(name, top[0].label, top[0].name, top[0].score, top)


def _name(picture: Picture, position: int) -> str:
    return str(Path(picture)) if isinstance(picture, (str, os.PathLike)) else f"image {position}"
