"""From pictures to answers: a checkpoint's model, preprocessing and class names behind
one call.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, unknown
from ..images.decode import decode_image
from ..models import MlpMixer
from ..runtime import engine as make_engine
from ..weights import Checkpoint, load
from ..weights.catalog import BUNDLED
from .pictures import Failure as Failure
from .pictures import NamedPicture, Picture, expand, is_url, source, without

R = TypeVar("R")

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(
        dim=-1
    ),  # the classes compete, their scores sum to 1
    # one yes or no per class: weights trained with sigmoid cross-entropy, as
    # big_vision's
    "sigmoid": torch.sigmoid,
    "semantic softmax": lambda logits: logits.softmax(
        dim=-1
    ),  # MIIL's 21k head: good for ranking, no probabilities
}
LARGER = ("resize", "tile")
_MOST_TILES = 4  # a side


@dataclass(frozen=True)
class Candidate:
    """One possible answer: class number, class name, score."""

    label: int
    name: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture: the best class, and the best few in order.
    `score_kind` is a key of `SCORES`.
    """

    path: str
    pred_label: int
    pred_class: str
    pred_score: float
    score_kind: str
    top: tuple[Candidate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Features:
    """What the network computed for one picture: float32 arrays by the names of
    `MlpMixer.features`, without batch.
    """

    path: str
    values: dict[str, np.ndarray[Any, Any]]


class Predictor:
    """Classifies pictures with a checkpoint; an unreadable one becomes a `Failure` and
    does not end the run.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | str | os.PathLike[str] = BUNDLED,
        *,
        device: str = "cpu",
        top: int = 5,
        engine: str = "auto",
        larger: str = "resize",
    ) -> None:
        """checkpoint: loaded, or what `load` takes; the default is in the package and
        knows CIFAR-10's classes only.

        top: how many candidates to report. `UserError` if it cannot be.
        engine: what computes the answers, "torch", "onnxruntime" or "openvino"; "auto"
            prepares the fastest once many
        pictures have come. They agree to 1e-4 in the logits, or are refused. Features
        are always torch's.
        larger: what becomes of pictures with more pixels than the network takes.
            "resize": they are scaled to its size. "tile": they are scaled to K x K
            tiles of its size, K being how often it goes into both sides, 4 at most, and
            the tiles' features are averaged. That is the answer of the network that
            `resize` grows K-fold (the paper's App. C), without the zeros of its
            block-diagonal weights.
        """
        if top < 1:
            raise UserError(f"top must be at least 1, got {top}")
        if larger not in LARGER:
            raise unknown("way with larger pictures", larger, LARGER)
        self.checkpoint = (
            checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
        )
        self.score_kind = str(self.checkpoint.provenance.get("head", "softmax"))
        if self.score_kind not in SCORES:
            raise unknown("kind of head", self.score_kind, SCORES)
        self.device = torch.device(device)
        self.model = self.checkpoint.model.to(self.device).eval()
        self._run = make_engine(self.model, engine)
        classes = self.model.config.num_classes
        self.labels = self.checkpoint.labels or tuple(
            f"class {number}" for number in range(classes)
        )
        self.top = min(top, classes)
        self.larger = larger

    def __call__(self, picture: Picture) -> Prediction:
        """The answer for one picture; `UserError` if it cannot be read, or is a folder
        of several.
        """
        return self.prediction(*self._logits_of(picture))

    def predict(
        self,
        pictures: Iterable[Picture],
        *,
        batch_size: int = 32,
        done: Iterable[str] = (),
    ) -> Iterator[Prediction | Failure]:
        """Answers in the order of the pictures, read and computed `batch_size` at a
        time; `UserError` without a head.

        done: the names (`path`) of the first pictures, which are passed over;
            `UserError` if others come.

        Folders, patterns and videos stand for several pictures, as
        `images.pictures.expand` says.
        """
        self._need_classifier()
        answers = self._computed(
            without(expand(pictures), done), batch_size, self._logits
        )
        return (
            x if isinstance(x, Failure) else self.prediction(name, x)
            for name, x in answers
        )

    def features(
        self,
        pictures: Iterable[Picture],
        names: str | Sequence[str] = ("pre_logits",),
        *,
        batch_size: int = 32,
    ) -> Iterator[Features | Failure]:
        """Values by the names of `MlpMixer.features`, as `predict` answers; needs no
        head. `UserError` for another.
        """
        wanted = (names,) if isinstance(names, str) else tuple(names)
        with torch.device("meta"):  # where nothing is computed
            x = torch.empty(
                1, self.model.config.in_channels, *self.model.config.image_size
            )
            known = MlpMixer(self.model.config).features(x)
        if strangers := [name for name in wanted if name not in known]:
            raise unknown("feature", strangers[0], known)
        if self.larger == "tile" and not {"pre_logits", "logits"}.issuperset(wanted):
            raise UserError(
                f"tiles have only pre_logits and logits in common, got {', '.join(wanted)}; resize instead"
            )
        answers = self._computed(
            expand(pictures), batch_size, functools.partial(self._features, wanted)
        )
        return (
            x if isinstance(x, Failure) else Features(name, x) for name, x in answers
        )

    def _need_classifier(self) -> None:
        if self.model.config.num_classes == 0:
            raise UserError(
                "this checkpoint has no classifier and cannot name classes; fine-tune it or use features()"
            )

    def _logits_of(self, picture: Picture) -> tuple[str, Tensor]:
        """Name and logits (K,) of the one picture that is meant."""
        self._need_classifier()
        found = list(itertools.islice(expand([picture]), 2))
        if len(found) > 1:
            raise UserError(
                f"the folder {str(picture)!r} holds several images; use predict(), which answers for each"
            )
        name, answer = next(self._computed(iter(found), 1, self._logits))
        if isinstance(answer, Failure):
            raise UserError(answer.error)
        return name, answer

    def _computed(
        self,
        pictures: Iterator[NamedPicture],
        batch_size: int,
        compute: Callable[[Tensor], Iterable[R]],
    ) -> Iterator[tuple[str, R | Failure]]:
        """Each picture's name and what `compute` gives for it; no more than two batches
        are in memory.
        """
        dtype = next(self.model.parameters()).dtype
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        for chunk in self._batches(pictures, batch_size):
            good = [x for _, x in chunk if isinstance(x, Tensor)]
            parts = torch.split(torch.cat(good), batch_size) if good else ()
            results = iter(
                [y for part in parts for y in compute(part.to(self.device, dtype))]
            )
            for name, x in chunk:
                yield (
                    name,
                    x
                    if isinstance(x, Failure)
                    else _mean(list(itertools.islice(results, len(x)))),
                )

    def _batches(
        self, pictures: Iterator[NamedPicture], batch_size: int
    ) -> Iterator[list[tuple[str, Tensor | Failure]]]:
        """Names and inputs; batches of several are read by threads, while the one
        before is computed.
        """
        if batch_size == 1:
            yield from (
                [(name, self._read(picture, name))] for name, picture in pictures
            )
            return
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "pictures")
        waiting = None
        try:
            while waiting != []:
                some = itertools.islice(pictures, batch_size)
                ahead = [
                    (name, pool.submit(self._read, picture, name))
                    for name, picture in some
                ]
                if waiting:
                    yield [(name, future.result()) for name, future in waiting]
                waiting = ahead
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, picture: Picture | Failure, name: str) -> Tensor | Failure:
        if isinstance(picture, Failure):
            return picture
        try:
            return self._tiles(
                decode_image(
                    source(picture), channels=self.checkpoint.preprocess.channels
                )
            )
        except (
            ValueError
        ) as error:  # UserError, and what a path with a null byte raises
            return Failure(
                name,
                f"{name!r}: {error}"
                if is_url(picture) and name not in str(error)
                else str(error),
            )

    def _tiles(self, image: np.ndarray[Any, Any]) -> Tensor:
        """A decoded image as the network takes it, (1, C, H, W), or K x K tiles of it,
        (K K, C, H, W).
        """
        preprocess = self.checkpoint.preprocess
        (H, W) = self.checkpoint.preprocess.image_size
        K = (
            min(image.shape[0] // H, image.shape[1] // W, _MOST_TILES)
            if self.larger == "tile"
            else 1
        )
        if K <= 1:
            return preprocess(image)[None]
        tiles = replace(preprocess, image_size=(K * H, K * W))(image).view(
            -1, K, H, K, W
        )
        return tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)

    def _logits(self, x: Tensor) -> Tensor:
        return self._run(x).cpu()

    @torch.inference_mode()
    def _features(
        self, wanted: tuple[str, ...], x: Tensor
    ) -> list[dict[str, np.ndarray[Any, Any]]]:
        if {"norm", "pre_logits", "logits"}.issuperset(
            wanted
        ):  # without the 3 L other tensors, which are gigabytes
            norm = self.model.forward_features(x)
            pooled = self.model.forward_head(norm, pre_logits=True)
            out = {
                "norm": norm,
                "pre_logits": pooled,
                "logits": self.model.head(pooled),
            }
        else:
            out = self.model.features(x)
        arrays = {name: out[name].float().cpu().numpy() for name in wanted}
        return [
            {name: array[i] for name, array in arrays.items()} for i in range(len(x))
        ]

    def prediction(
        self, name: str, logits: Tensor, top: int | None = None
    ) -> Prediction:
        """What the logits (K,) of one picture say; top: how many candidates, the
        predictor's own number by default.
        """
        scores = SCORES[self.score_kind](logits)
        best = logits.topk(
            min(top or self.top, len(logits))
        )  # not of scores: sigmoid rounds large ones to the same 1
        found = tuple(
            Candidate(number, self.labels[number], scores[number].item())
            for number in best.indices.tolist()
        )
        return Prediction(
            name, found[0].label, found[0].name, found[0].score, self.score_kind, found
        )


def _mean(tiles: list[Any]) -> Any:
    """What was computed for one picture: logits, or arrays by name; the head is linear,
    so its mean is of the mean.
    """
    if len(tiles) == 1:
        return tiles[0]
    if isinstance(tiles[0], dict):
        return {
            name: np.mean([tile[name] for tile in tiles], axis=0) for name in tiles[0]
        }
    return torch.stack(tiles).mean(dim=0)


def inference_model(
    model: str | os.PathLike[str] | Checkpoint | Predictor,
    image: Picture,
    *,
    device: str = "cpu",
) -> dict[str, Any]:
    """The scores of all classes for one picture, in the form of mmpretrain's function
    of this name.

    model: what `load` takes (the last two are kept), a checkpoint, or a predictor,
        which stays on its own device.

    Returns `pred_scores`, float32 (K,), as `SCORES` makes them; `pred_label`, the best
    class; `pred_score`; and `pred_class`, if the checkpoint knows names. `UserError` if
    the model or the picture cannot be used.
    """
    if isinstance(model, Checkpoint):
        model = Predictor(model, device=device)
    elif not isinstance(model, Predictor):
        model = _loaded(os.fspath(model), device, _stamp(model))
    logits = model._logits_of(image)[1]
    scores = SCORES[model.score_kind](logits).numpy()
    label = int(logits.argmax())
    answer = {
        "pred_scores": scores,
        "pred_label": label,
        "pred_score": float(scores[label]),
    }
    return answer | (
        {"pred_class": model.checkpoint.labels[label]}
        if model.checkpoint.labels
        else {}
    )


@functools.lru_cache(maxsize=2)
def _loaded(source: str, device: str, stamp: object) -> Predictor:
    return Predictor(source, device=device)


def _stamp(source: str | os.PathLike[str]) -> tuple[object, ...]:
    """What differs once the file (or a file of the folder) is another one; empty for a
    name.
    """
    files = [
        file
        for file in (Path(source), *sorted(Path(source).glob("*")))
        if file.is_file()
    ]
    return tuple(
        (str(f.resolve()), (s := f.stat()).st_ino, s.st_mtime_ns, s.st_size)
        for f in files
    )
