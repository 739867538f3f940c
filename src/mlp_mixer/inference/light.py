"""Classify pictures without torch, whose start takes longer than a few answers.

The bundled model, and any small Mixer of ours, is computed by NumPy; a file of `export
--to onnx` by onnxruntime. Reading, preprocessing and words are those of `Predictor`.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..choices import check_asked
from ..errors import UserError
from ..files import PathLike
from ..weights.catalog import BUNDLED
from ..weights.given_labels import GivenLabels
from ..weights.scores import (
    checked_thresholds,
    resolve_min_score,
    score_kind,
    scores_of_array,
)
from .light_checkpoint import Array, LightCheckpoint, NeedsTorchError
from .numpy_mixer import read_mixer
from .onnx_file import is_export, read_onnx
from .parts import Turns
from .pictures import VIDEOS, NamedPicture, Picture, expand, to_answer
from .reading import batches, read
from .results import Failure, Prediction, prediction, reached

if TYPE_CHECKING:
    from .predictor import Predictor

MOST_MULTIPLY_ADDS = 10_000_000_000
"""Of all pictures together, up to which NumPy has answered before torch would have.

Torch takes 2.4 processor seconds to begin, and then 0.08 ns less than NumPy for each:
they meet at 30 billion. A third of that are 262 pictures for the bundled network.
"""


class LightPredictor:
    """Classify pictures as `Predictor` does, without torch.

    Attributes:
        checkpoint: What was read: preprocessing, labels, provenance.
        engine: What computes: "numpy" or "onnxruntime".
        labels: The names of the classes; "class 7" where the checkpoint has none.
        larger: "resize": larger pictures are scaled to the network's size.
        min_score: The lowest score of an answer that is given; None answers all.
        score_kind: What scores are: a key of `SCORES`.
        thresholds: As of `Predictor`.
        top: How many candidates an answer has.
    """

    def __init__(
        self,
        checkpoint: PathLike = BUNDLED,
        *,
        top: int = 5,
        min_score: float | str | None = None,
        labels: GivenLabels | None = None,
    ) -> None:
        """Read the weights and prepare to answer.

        Args:
            checkpoint: A file of `export --to onnx`, or the native checkpoint of a Mixer
                up to 64 MiB: a file, the folder of a run, or the name of bundled
                weights.
            top: How many candidates to report; no more than there are classes.
            min_score: As for `Predictor`.
            labels: The names of the classes, as for `load`.

        Raises:
            NeedsTorchError: These weights need `Predictor`; the sentence says why.
            UserError: The file cannot be read, an option is wrong, or there is not one
                label for each class.
        """
        if top < 1:
            raise UserError(f"top must be at least 1, got {top}")
        found = _read(checkpoint)
        if labels is not None:
            found = found.with_labels(labels)
        numbered = tuple(f"class {number}" for number in range(found.classes))
        self.checkpoint = found
        self.engine = found.engine
        self.labels = found.labels or numbered
        self.larger = "resize"
        self.score_kind = score_kind(found.provenance, found.classes)
        self.min_score = resolve_min_score(min_score, found.provenance)
        self.thresholds = checked_thresholds(found.provenance, found.classes)
        self.top = min(top, found.classes)

    def __call__(self, picture: Picture) -> Prediction:
        """Classify one picture.

        Args:
            picture: Anything that stands for one picture.

        Raises:
            UserError: It cannot be read, or it is a folder of several.
        """
        found = list(itertools.islice(expand([picture]), 2))
        if len(found) > 1:
            raise UserError(
                f"{str(picture)!r} stands for several images; use predict(), which "
                "answers for each"
            )
        answer = next(self._answers(iter(found), 1))
        if isinstance(answer, Failure):
            raise UserError(answer.error)
        return answer

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
            pictures: As for `Predictor.predict`, like all arguments.
            batch_size: How many to read and compute at a time.
            answered: The names of the first pictures, which have an answer already.
            outside: Files in this folder are left out.
            turns: Take only the pictures of its part.

        Raises:
            UserError: The first pictures are not those of `answered`.
        """
        named = expand(pictures) if turns is None else turns.take(pictures)
        return self._answers(to_answer(named, answered, outside), batch_size)

    def logits(self, images: Array) -> Array:
        """Compute the logits of images.

        Args:
            images: As `checkpoint.prepare` makes them, (B, ...).

        Returns:
            float32 (B, K).
        """
        return self.checkpoint.run(images)

    def computed(self) -> dict[str, Any]:
        """Return what computes: "engine", and "precision" (None: that of the file)."""
        precision = "fp32" if self.engine == "numpy" else None
        return {"engine": self.engine, "precision": precision}

    def computed_in_words(self) -> str:
        """Return `computed()` as a sentence for people."""
        return f"computed by {self.engine}"

    def admitted(self) -> dict[str, Any]:
        """Return {}: nothing but fp32, or what the file was exported in."""
        return {}

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with any weight."""
        return self.checkpoint.fingerprint

    def _answers(
        self, pictures: Iterator[NamedPicture], batch_size: int
    ) -> Iterator[Prediction | Failure]:
        for batch in batches(self._read, pictures, batch_size):
            inputs = [x for _, x in batch if not isinstance(x, Failure)]
            logits = iter(self.logits(np.stack(inputs)) if inputs else ())
            for name, x in batch:
                if isinstance(x, Failure):
                    yield x
                else:
                    yield self._prediction(name, next(logits))

    def _read(self, picture: Picture | Failure, name: str) -> Array | Failure:
        checkpoint = self.checkpoint
        return read(picture, name, checkpoint.preprocess.channels, checkpoint.prepare)

    def _prediction(self, name: str, logits: Array) -> Prediction:
        scores = scores_of_array(self.score_kind, logits)
        order = np.argsort(-logits, kind="stable").tolist()
        labels = None
        if self.thresholds is not None:
            labels = reached(order, scores, self.thresholds, self.labels)
        return prediction(name, order[: self.top], scores, self, labels)


def _read(source: PathLike) -> LightCheckpoint:
    if is_export(source):
        return read_onnx(source)
    try:
        return read_mixer(source)
    except NeedsTorchError as error:
        raise NeedsTorchError(
            f"{str(source)[:300]!r} needs torch: {error}; use Predictor"
        ) from error


def choose_predictor(
    checkpoint: PathLike,
    pictures: Sequence[str],
    *,
    key: str | None = None,
    features: bool = False,
    device: str = "auto",
    top: int = 5,
    engine: str = "auto",
    fast: bool = False,
    precision: str = "auto",
    larger: str = "resize",
    min_score: float | str | None = None,
    labels: GivenLabels | None = None,
) -> Predictor | LightPredictor:
    """Return what answers for these pictures soonest: a predictor with torch or without.

    Without torch it is for a file of `export --to onnx`, and for a small Mixer of ours
    and few pictures (`MOST_MULTIPLY_ADDS`), if no option asks for more.

    Args:
        checkpoint: As typed.
        pictures: Paths, folders, patterns and addresses, as typed; "-" for a list that
            is still to come.
        key: Where in a file the network is, as for `load`.
        features: Features are wanted, not answers.
        device, top, engine, precision, larger, min_score, labels: As for `Predictor`.
        fast: As the commands' `--fast`.

    Raises:
        UserError: As of `Predictor`; or a file cannot do what an option asks for.
    """
    answering: dict[str, Any] = {"top": top, "min_score": min_score, "labels": labels}
    check_asked(fast, precision)
    in_fp32 = not fast and precision != "bf16"
    is_plain = key is None and not features and larger == "resize" and in_fp32
    is_here = device in ("auto", "cpu")
    if is_export(checkpoint):
        if not (is_plain and is_here and engine in ("auto", "onnxruntime")):
            raise UserError(
                f"{str(checkpoint)!r} gives answers on the CPU, for pictures of its own "
                "size, by onnxruntime, and nothing else: leave the other options away, "
                "or give the checkpoint it was made from"
            )
        return LightPredictor(checkpoint, **answering)
    if is_plain and is_here and engine == "auto":
        # Torch's own reader has the words for whatever is wrong.
        with contextlib.suppress(UserError):
            light = LightPredictor(checkpoint, **answering)
            if _are_few(pictures, light.checkpoint.multiply_adds):
                return light
    with _without_collection():
        from ..devices import pick_device
        from ..runtime import admitted_tolerance
        from ..weights import load
        from .predictor import Predictor

    tolerance = admitted_tolerance(fast, precision, pick_device(device))
    source = checkpoint if key is None else load(checkpoint, key=key)
    return Predictor(
        source,
        device=device,
        engine=engine,
        tolerance=tolerance,
        precision=precision,
        larger=larger,
        **answering,
    )


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no garbage in a block that imports torch, nor in what it brings, later.

    The collector would walk through half a million objects that stay, again and again:
    a tenth of torch's start.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _are_few(pictures: Sequence[str], multiply_adds: int) -> bool:
    """Return whether NumPy has answered for all before torch would have begun."""
    # A list on stdin may never end, and a video is decoded to count its frames.
    if any(name == "-" or name.lower().endswith(VIDEOS) for name in pictures):
        return False
    most = MOST_MULTIPLY_ADDS // multiply_adds
    count = 0
    for _, picture in itertools.islice(expand(pictures), most + 1):
        # A pattern may match videos too.
        if isinstance(picture, np.ndarray):
            return False
        count += 1
    return count <= most
