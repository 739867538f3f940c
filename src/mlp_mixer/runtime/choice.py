"""Put a network behind one call that becomes as fast as its user admits.

The plain module answers first. Once it has computed for some seconds, the ways that the
user's tolerance admits are tried on the first images, and the fastest goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..choices import check_asked
from ..errors import UserError, unknown
from ..models.isotropic import IsotropicMlp
from . import on_cuda
from .engines import ENGINES, TOLERANCE, checked, exact
from .trial import COMPARED, Chosen, First, compare, fastest
from .ways import Way, build, is_exact, own_precision, ways, why_not_way

# Seconds of computing that are left to the plain module: about what it costs to prepare
# and to try the others. Whoever asks for a few images never pays that.
PATIENCE = 3.0


def engine(
    model: IsotropicMlp,
    name: str = "auto",
    *,
    tolerance: float = TOLERANCE,
    precision: str = "auto",
) -> Engine:
    """Put a model behind one call.

    The model is set to evaluation mode. Weights that change later may or may not be
    seen.

    Args:
        model: The network.
        name: "torch" (`packed` on the CPU in fp32; `OnCuda` on a GPU), "plain",
            "onnxruntime" or "openvino" (both on the CPU). "auto" is the plain module
            for the first seconds, then the `fastest` here, which may be another one for
            single images than for several.
        tolerance: The largest difference from the plain module in the logits, in units
            of the largest logit if that is above 1. The default admits fp32 only; above
            it bf16 and int8 (on a GPU bf16 and TF32) may be chosen, if on the first
            images they stay within it, answer with the same classes and are faster.
        precision: "fp32" is exact whatever the tolerance; "bf16" demands it, slower or
            not; "auto" is what the tolerance admits.

    Returns:
        The call; its `record()` says what computed.

    Raises:
        UserError: A word is not known, the engine is not installed, cannot run this
            model, fails on this machine, or gives other answers than the module.
    """
    if name != "auto" and name not in ENGINES:
        raise unknown("engine", name, ["auto", *ENGINES])
    check_asked(False, precision)
    # "not <=" and not ">": a NaN must not pass.
    if not 0 <= tolerance < float("inf"):
        raise UserError(
            f"the tolerance is {tolerance!r}: expected a number from 0 on, such as 0.1"
        )
    return Engine(model, name, tolerance, precision)


class Engine:
    """Run a network by the way that its user admits and its machine does fastest.

    Attributes:
        spent: Seconds that the way of the beginning has computed.
        chosen: The way for several images (True), and for one (False).
        last: What computed the newest answer.
        counts: How many images each precision has answered.
    """

    def __init__(
        self, model: IsotropicMlp, name: str, tolerance: float, precision: str
    ) -> None:
        """Prepare the way of the beginning; `engine` says what the arguments are."""
        self._model = model.eval()
        self._name = name
        self._tolerance = tolerance
        self._precision = precision
        self._ways = list(ways(model, name, precision, tolerance))
        self._on_cuda = on_cuda.is_on_cuda(model)
        self._reference = exact(model)
        self.spent = 0.0
        self._kept: list[First] = []
        self.chosen: dict[bool, Chosen] = {}
        self.counts: Counter[str] = Counter()
        self.last = self._beginning()

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of images (B, C, H, W), float32 (B, K) on their device."""
        if not len(images):
            return self.last.run(images)
        several = len(images) > 1
        if several not in self.chosen and self._is_time():
            self._look(images)
            self.chosen[several] = self._choose(images)
        if several in self.chosen:
            self.last = self.chosen[several]
            answer = self.last.run(images)
        else:
            started = time.perf_counter()
            answer = self.last.run(images)
            if images.is_cuda:
                # A GPU has only been told to compute when the call returns.
                torch.cuda.synchronize(images.device)
            self.spent += time.perf_counter() - started
            self._look(images, answer)
        self.counts[self.last.way.precision] += len(images)
        return answer

    @property
    def is_exact(self) -> bool:
        """Whether nothing but the precision of the weights was admitted."""
        return all(is_exact(self._model, way) for way in self._ways)

    def of_the_newest(self) -> dict[str, Any]:
        """Return "precision" and "difference" of the newest answer; {} if it is exact."""
        if self.is_exact:
            return {}
        precision = self.last.way.precision
        return {"precision": precision, "difference": self.last.difference}

    def admitted(self) -> dict[str, Any]:
        """Return what a user has admitted, as JSON values: tolerance and precision."""
        return {"tolerance": self._tolerance, "precision": self._precision}

    def record(self) -> dict[str, Any]:
        """Return what computes and how far it is from fp32, as JSON values.

        "engine", "precision", "difference" (in units of the largest logit if that is
        above 1), "compared" (on so many images), "tolerance", "images" (how many each
        precision has answered), "notes" (why other ways were left out).
        """
        return {
            "engine": self.last.way.engine,
            "precision": self.last.way.precision,
            "difference": self.last.difference,
            "compared": self.last.compared,
            "tolerance": self._tolerance,
            "images": dict(self.counts),
            "notes": list(self.last.notes),
        }

    def in_words(self) -> str:
        """Return `record()` as a sentence for people."""
        last = self.last
        text = f"computed in {last.way}"
        if not is_exact(self._model, last.way):
            text += (
                f": logits differ by at most {last.difference:.2g} of the largest on "
                f"{last.compared} images"
            )
            # Of a precision that was asked for classes are not compared.
            if self._precision == "auto":
                text += ", with the same classes"
        if last.speed is not None and not is_exact(self._model, last.way):
            text += f", {last.speed:.1f} times as fast as fp32"
        if len(self.counts) > 1:
            shares = [f"{n:,} in {name}" for name, n in self.counts.items()]
            text += f" ({', '.join(shares)})"
        return "; ".join([text, *last.notes])

    def _beginning(self) -> Chosen:
        """Return the way that computes until another is chosen."""
        own = Way("plain", own_precision(self._model))
        if self._precision == "bf16" and own.precision != "bf16":
            return self._beginning_in_bf16()
        if self._name == "auto":
            return Chosen(own, self._reference)
        # A named engine must run, from the first image on.
        named = Way(self._name, own.precision)
        chosen = Chosen(named, checked(self._model, self._name))
        if self.is_exact:
            self.chosen = {True: chosen, False: chosen}
        return chosen

    def _beginning_in_bf16(self) -> Chosen:
        """Return a way in bf16, which was asked for; refuse it where there is none."""
        reasons = []
        for way in self._ways:
            reason = why_not_way(self._model, way, asked=True)
            if reason is None:
                try:
                    return Chosen(way, build(self._model, way))
                except UserError as error:
                    reason = str(error)
            reasons.append(f"{way}: {reason}")
        said = "; ".join(reasons) or f"{self._name} does not compute in it"
        raise UserError(
            f"precision='bf16' cannot be had here ({said}); use precision='auto'"
        )

    def _is_time(self) -> bool:
        """Return whether the ways should be tried now."""
        # On a GPU bf16 costs a copy of the weights, and is worth it at once.
        if self._on_cuda and self._precision == "auto" and not self.is_exact:
            return True
        return self.spent >= PATIENCE

    def _look(self, images: Tensor, answer: Tensor | None = None) -> None:
        """Keep the first images and the module's answers, for the comparison."""
        room = COMPARED - sum(len(some) for some, _ in self._kept)
        if self.is_exact or room <= 0:
            return
        some = images[:room].clone()
        if answer is not None and is_exact(self._model, self.last.way):
            self._kept.append((some, answer[:room].clone()))
            return
        expected = self._reference(some)
        self._kept.append((some, expected))
        if answer is not None:
            # A precision that was asked for is not refused, and its difference is told.
            difference, _ = compare(answer[:room], expected)
            worst = max(difference, self.last.difference)
            compared = self.last.compared + len(some)
            self.last = replace(self.last, difference=worst, compared=compared)

    def _first(self) -> First:
        images, expected = zip(*self._kept, strict=True)
        return torch.cat(images), torch.cat(expected)

    def _choose(self, images: Tensor) -> Chosen:
        if self.is_exact and self._name == "auto":
            return fastest(self._model, images)
        return fastest(
            self._model,
            images,
            self._name,
            tolerance=self._tolerance,
            precision=self._precision,
            first=self._first(),
        )


class EngineOnce:
    """Make the engine of one network when it is asked for, and keep it.

    An evaluation of 75 test sets asks 75 times, and should try the ways once.

    Attributes:
        made: The engine, None before it is asked for.
    """

    def __init__(self, name: str = "auto", *, tolerance: float, precision: str) -> None:
        """Keep the settings; `engine` says what they are."""
        self._settings: dict[str, Any] = {
            "tolerance": tolerance,
            "precision": precision,
        }
        self._name = name
        self.made: Engine | None = None

    def __call__(self, model: IsotropicMlp) -> Engine:
        """Return the engine of a network, always the same one."""
        if self.made is None:
            self.made = engine(model, self._name, **self._settings)
        return self.made
