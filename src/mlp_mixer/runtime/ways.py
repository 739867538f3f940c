"""The ways to compute logits, an engine and a precision each, and which may be tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from ..choices import check_asked
from ..devices import LEAST_BF16_GAIN, bf16_gain
from ..models.isotropic import IsotropicMlp
from . import on_cuda
from .engines import (
    ENGINES,
    TOLERANCE,
    EngineFn,
    checked,
    int8,
    openvino_bf16,
    openvino_int8,
    torch_bf16,
    torch_tf32,
    why_not,
)

FAST_TOLERANCE = 0.1
"""What `--fast` admits: a difference of a tenth of the largest logit.

Of the bundled networks bf16 moves logits by 0.01 to 0.03 of it, int8 by openvino by 0.02
to 0.06, by onnxruntime by 0.07 to 0.16.
"""


class Way(NamedTuple):
    """An engine, and what it computes in.

    Attributes:
        engine: A key of `ENGINES`.
        precision: "fp32", "tf32", "bf16" or "int8"; of weights in another dtype its
            name.
    """

    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.precision} by {self.engine}"


# What is not exact, in the order in which it is tried.
_ROUNDED: dict[Way, Callable[[IsotropicMlp], EngineFn]] = {
    Way("torch", "tf32"): torch_tf32,
    Way("torch", "bf16"): torch_bf16,
    Way("openvino", "bf16"): openvino_bf16,
    Way("onnxruntime", "int8"): int8,
    Way("openvino", "int8"): openvino_int8,
}


def ways(
    model: IsotropicMlp, name: str, precision: str, tolerance: float
) -> Iterator[Way]:
    """Yield the ways that a user admits, whether or not this machine has them.

    Args:
        model: The network.
        name: A key of `ENGINES`, or "auto" for all.
        precision: One of `choices.ASKED`.
        tolerance: The largest difference in logits; above `TOLERANCE` "auto" admits
            other precisions than fp32.
    """
    # "torch" is the plain module where it can do no better.
    names = [name]
    if name == "auto":
        names = [name for name in ENGINES if name != "plain"]
    own = own_precision(model)
    if precision != "bf16" or own == "bf16":
        for engine in names:
            yield Way(engine, own)
    if own != "fp32" or precision == "fp32":
        return
    for way in _ROUNDED:
        asked = way.precision == "bf16" if precision == "bf16" else True
        admitted = precision == "bf16" or tolerance > TOLERANCE
        if way.engine in names and asked and admitted:
            yield way


def own_precision(model: IsotropicMlp) -> str:
    """Return the name of the dtype of a network's weights: "fp32", "bf16", "float16".

    Args:
        model: The network.
    """
    name = str(model.stem.proj.weight.dtype).removeprefix("torch.")
    return {"float32": "fp32", "bfloat16": "bf16"}.get(name, name)


def is_exact(model: IsotropicMlp, way: Way) -> bool:
    """Return whether a way computes in the dtype of the weights.

    Args:
        model: The network.
        way: One of `ways`.
    """
    return way.precision == own_precision(model)


def why_not_way(model: IsotropicMlp, way: Way, *, asked: bool = False) -> str | None:
    """Return why a way cannot be gone here or is not worth it; None if it is.

    Args:
        model: The network.
        way: One of `ways`.
        asked: Whether a user has named the precision, who gets it even if it is slow.
    """
    if reason := why_not(model, way.engine):
        return reason
    if is_exact(model, way):
        return None
    gpu = on_cuda.is_on_cuda(model)
    if way.precision == "tf32" and not gpu:
        return "it is for CUDA"
    if way.precision == "bf16" and gpu and not torch.cuda.is_bf16_supported():
        return "this GPU does not compute in bf16"
    if way.precision == "bf16" and not gpu and not asked:
        gain = bf16_gain()
        if gain < LEAST_BF16_GAIN:
            return f"products are {gain:.2f} times as fast as in fp32 here"
    return None


def build(model: IsotropicMlp, way: Way) -> EngineFn:
    """Build the call of a way.

    Args:
        model: The network; it is set to evaluation mode.
        way: One of `ways`.

    Raises:
        UserError: It cannot run here, or an exact one differs from the module.
    """
    if is_exact(model, way):
        return checked(model, way.engine)
    return _ROUNDED[way](model.eval())


def admitted_tolerance(fast: bool, precision: str, device: torch.device) -> float:
    """Return the tolerance of a command that names none.

    Args:
        fast: Whether less than fp32 was asked for in words.
        precision: One of `choices.ASKED`.
        device: Where it computes. On a GPU commands compute in bf16 unless fp32 is
            asked for: it is several times as fast there.

    Raises:
        UserError: The word is unknown, or the two contradict each other.
    """
    check_asked(fast, precision)
    if precision == "auto" and (fast or device.type == "cuda"):
        return FAST_TOLERANCE
    return TOLERANCE
