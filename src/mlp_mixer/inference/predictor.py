"""From pictures to answers: model, preprocessing and class names behind one call.

B images, C channels, H x W pixels of the network's input, K classes, T x T tiles of a
larger picture.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..devices import pick_device
from ..errors import UserError, unknown
from ..models import build_network
from ..models.as_built import plain_network
from ..runtime import TOLERANCE
from ..runtime import engine as make_engine
from ..weights import Checkpoint, load
from ..weights.catalog import BUNDLED
from ..weights.checkpoint import fingerprint
from ..weights.given_labels import GivenLabels
from ..weights.scores import SCORES, resolve_min_score, score_kind
from .parts import Turns
from .pictures import NamedPicture, Picture, expand, to_answer
from .reading import batches, read
from .results import Failure, Features, Prediction, prediction, reached
from .tiles import cut, mean_of

R = TypeVar("R")
FeatureArrays = dict[str, np.ndarray[Any, Any]]

LARGER = ("resize", "tile")
"""What to do with pictures that have more pixels than the network takes."""

_OF_THE_HEAD = frozenset(("norm", "pre_logits", "logits"))
_OF_TILES = frozenset(("pre_logits", "logits"))


class Predictor:
    """Classify pictures with a checkpoint.

    A picture that cannot be read becomes a `Failure` and does not end the run.

    Attributes:
        checkpoint: The loaded checkpoint, with `model`.
        device: Where the model computes.
        engine: What computes the logits; its `record()` names precision and difference.
        labels: The names of the classes; "class 7" where the checkpoint has none.
        larger: As given.
        min_score: The lowest score of an answer that is given; None answers all.
        model: The network, in evaluation mode on the device. It shares the weights of a
            checkpoint that was given, whose own model keeps its mode and its device.
        score_kind: What scores are: a key of `SCORES`.
        thresholds: The score of each class from which on it is answered, where pictures
            have several labels each; else None.
        top: How many candidates an answer has.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | str | os.PathLike[str] = BUNDLED,
        *,
        device: str | torch.device = "auto",
        top: int = 5,
        engine: str = "auto",
        tolerance: float = TOLERANCE,
        precision: str = "auto",
        larger: str = "resize",
        min_score: float | str | None = None,
        labels: GivenLabels | None = None,
    ) -> None:
        """Load a checkpoint and prepare it to answer.

        Args:
            checkpoint: A loaded one, or what `load` takes; the default is bundled with
                the package and knows CIFAR-10's classes only.
            device: "auto" is a GPU if there is one, else the CPU; or a name of torch's.
            top: How many candidates to report; no more than there are classes.
            engine: What computes the logits: "torch", "plain", "onnxruntime" or
                "openvino"; "auto" prepares the fastest once many pictures have come.
                Engines agree to 1e-4 in the logits, or are refused. Features always
                come from torch, in fp32.
            tolerance: The largest difference in logits from fp32, in units of the
                largest logit if that is above 1. The default admits fp32 only. A larger
                one, such as `runtime.FAST_TOLERANCE`, admits bf16 and int8 (on a GPU
                TF32) where they are faster and name the first pictures alike.
            precision: "fp32" is exact, "bf16" demands it, "auto": as tolerated.
            larger: What to do with pictures that have more pixels than the network
                takes. "resize": scale them to its size. "tile": scale them to T x T
                tiles of its size, T being how often it fits into both sides, 4 at most,
                and average the tiles' features. That is the answer of the network that
                `resize` grows T-fold (the paper's App. C), without the zeros of its
                block-diagonal weights.
            min_score: The answer is "unknown" where the best score is below this, 0 to
                1. "auto" takes what the validation images chose in training: the lowest
                score at which 95 % of the answers were right.
            labels: The names of the classes, as for `load`.

        Raises:
            UserError: The device is not there, the checkpoint cannot be loaded, an
                option is wrong, or there is not one label for each class.
        """
        if top < 1:
            raise UserError(f"top must be at least 1, got {top}")
        if larger not in LARGER:
            raise unknown("way with larger pictures", larger, LARGER)
        # Before the weights are read, which may take minutes.
        self.device = pick_device(device)
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = load(checkpoint, labels=labels)
        elif labels is not None:
            checkpoint = checkpoint.with_labels(labels)
        # The caller's model keeps its mode and its device.
        self.model = plain_network(checkpoint.model, self.device)
        self.checkpoint = replace(checkpoint, model=self.model)
        self.score_kind = score_kind(checkpoint.provenance, self.model.num_classes)
        self.min_score = resolve_min_score(min_score, checkpoint.provenance)
        self.thresholds = self.checkpoint.thresholds
        self.engine = make_engine(
            self.model, engine, tolerance=tolerance, precision=precision
        )
        classes = self.model.num_classes
        numbered = tuple(f"class {number}" for number in range(classes))
        self.labels = self.checkpoint.class_names() or numbered
        self.top = min(top, classes)
        self.larger = larger

    def __call__(self, picture: Picture) -> Prediction:
        """Classify one picture.

        Args:
            picture: Anything that stands for one picture.

        Returns:
            The answer.

        Raises:
            UserError: It cannot be read, it is a folder of several, or the checkpoint
                has no classifier.
        """
        name, logits = self.logits_of(picture)
        return self._answer(name, logits)

    def predict(
        self,
        pictures: Iterable[Picture],
        *,
        batch_size: int = 32,
        answered: Iterable[str] = (),
        outside: str | os.PathLike[str] | None = None,
        turns: Turns | None = None,
    ) -> Iterator[Prediction | Failure]:
        """Yield answers in the order of the pictures.

        Args:
            pictures: Folders, patterns and videos stand for several pictures, as
                `inference.pictures.expand` says.
            batch_size: How many to read and compute at a time.
            answered: The names (`path`) of the first pictures, which an earlier run has
                answered: they are passed over.
            outside: Files in this folder are left out: the run itself puts them there.
            turns: Take only the pictures of its part.

        Raises:
            UserError: The checkpoint has no classifier, or the first pictures are not
                those of `answered`.
        """
        self._need_classifier()
        named = expand(pictures) if turns is None else turns.take(pictures)
        found = to_answer(named, answered, outside)
        computed = self._computed(found, batch_size, self.logits)
        return (
            logits if isinstance(logits, Failure) else self._answer(name, logits)
            for name, logits in computed
        )

    def features(
        self,
        pictures: Iterable[Picture],
        names: str | Sequence[str] = ("pre_logits",),
        *,
        batch_size: int = 32,
    ) -> Iterator[Features | Failure]:
        """Yield what the network computes for each picture; no classifier is needed.

        Args:
            pictures: As for `predict`.
            names: Of `IsotropicMlp.features`: "pre_logits", "blocks.0", "norm", ...
            batch_size: How many to read and compute at a time.

        Raises:
            UserError: There is no feature of a name, or `larger` is "tile" and tiles
                have no common value of that name.
        """
        wanted = (names,) if isinstance(names, str) else tuple(names)
        self._check_features(wanted)
        compute = functools.partial(self._features, wanted)
        computed = self._computed(expand(pictures), batch_size, compute)
        return (
            values if isinstance(values, Failure) else Features(name, values)
            for name, values in computed
        )

    def prediction(
        self, name: str, logits: Tensor, top: int | None = None
    ) -> Prediction:
        """Return the answer that the logits of one picture give.

        Args:
            name: Of the picture.
            logits: (K,).
            top: How many candidates; default: the predictor's own number.
        """
        scores = SCORES[self.score_kind](logits)
        best = logits.topk(min(top or self.top, len(logits))).indices.tolist()
        labels = None
        if self.thresholds is not None:
            order = logits.argsort(descending=True, stable=True).tolist()
            labels = reached(order, scores, self.thresholds, self.labels)
        return prediction(name, best, scores, self, labels)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with any weight."""
        return fingerprint(self.model)

    def _answer(self, name: str, logits: Tensor) -> Prediction:
        """Return the answer of the newest logits, with the precision they came in."""
        prediction = self.prediction(name, logits)
        return replace(prediction, **self.engine.of_the_newest())

    def computed(self) -> dict[str, Any]:
        """Return what computed the newest answer: `runtime.Engine.record`."""
        return self.engine.record()

    def computed_in_words(self) -> str:
        """Return `computed()` as a sentence for people."""
        return self.engine.in_words()

    def admitted(self) -> dict[str, Any]:
        """Return tolerance and precision, where others than fp32 are admitted."""
        return {} if self.engine.is_exact else self.engine.admitted()

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Compute the logits of preprocessed images, as a server does.

        Args:
            x_BCHW: What the checkpoint's `preprocess` returns, on any device.

        Returns:
            The logits (B, K) on the CPU.
        """
        return self.engine(x_BCHW.to(self.device)).cpu()

    def logits_of(self, picture: Picture) -> tuple[str, Tensor]:
        """Return the name and the logits (K,) of one picture.

        Args:
            picture: Anything that stands for one picture.

        Raises:
            UserError: As for a call of the predictor.
        """
        self._need_classifier()
        found = list(itertools.islice(expand([picture]), 2))
        if len(found) > 1:
            raise UserError(
                f"{str(picture)!r} stands for several images; use predict(), which "
                "answers for each"
            )
        name, answer = next(self._computed(iter(found), 1, self.logits))
        if isinstance(answer, Failure):
            raise UserError(answer.error)
        return name, answer

    def _need_classifier(self) -> None:
        if self.model.config.num_classes == 0:
            raise UserError(
                "this checkpoint has no classifier and cannot name classes; fine-tune "
                "it or use features()"
            )

    def _check_features(self, wanted: tuple[str, ...]) -> None:
        config = self.model.config
        # On the meta device a model has names and shapes, and computes nothing.
        with torch.device("meta"):
            x_BCHW = torch.empty(1, config.in_channels, *config.image_size)
            known = build_network(config).features(x_BCHW)
        for name in wanted:
            if name not in known:
                raise unknown("feature", name, known)
        if self.larger == "tile" and not _OF_TILES.issuperset(wanted):
            raise UserError(
                "tiles have only pre_logits and logits in common, got "
                f"{', '.join(wanted)}; resize instead"
            )

    def _computed(
        self,
        pictures: Iterator[NamedPicture],
        batch_size: int,
        compute: Callable[[Tensor], Iterable[R]],
    ) -> Iterator[tuple[str, R | Failure]]:
        """Yield each picture's name and what `compute` returns for it.

        No more than two batches are in memory.
        """
        dtype = next(self.model.parameters()).dtype
        for batch in batches(self._read, pictures, batch_size):
            inputs = [tiles for _, tiles in batch if isinstance(tiles, Tensor)]
            computed: list[R] = []
            if inputs:
                # A picture may bring 16 tiles: split again, or memory is not bounded.
                for part in torch.split(torch.cat(inputs), batch_size):
                    computed += compute(part.to(self.device, dtype))
            results = iter(computed)
            for name, tiles in batch:
                if isinstance(tiles, Failure):
                    yield name, tiles
                else:
                    yield name, mean_of(list(itertools.islice(results, len(tiles))))

    def _read(self, picture: Picture | Failure, name: str) -> Tensor | Failure:
        channels = self.checkpoint.preprocess.channels
        return read(picture, name, channels, self._inputs)

    def _inputs(self, image: np.ndarray[Any, Any]) -> Tensor:
        """Preprocess a decoded image: (1, C, H, W), or its tiles (T T, C, H, W)."""
        preprocess = self.checkpoint.preprocess
        if self.larger == "tile":
            return cut(image, preprocess)
        return preprocess(image)[None]

    @torch.inference_mode()
    def _features(self, wanted: tuple[str, ...], x_BCHW: Tensor) -> list[FeatureArrays]:
        if _OF_THE_HEAD.issuperset(wanted):
            # Without the three tensors of every block, which are gigabytes together.
            norm = self.model.forward_features(x_BCHW)
            pooled = self.model.forward_head(norm, pre_logits=True)
            logits = self.model.head(pooled)
            out = {"norm": norm, "pre_logits": pooled, "logits": logits}
        else:
            out = self.model.features(x_BCHW)
        arrays = {name: out[name].float().cpu().numpy() for name in wanted}
        return [
            {name: array[index] for name, array in arrays.items()}
            for index in range(len(x_BCHW))
        ]
