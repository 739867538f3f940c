"""Run a network on a GPU: in one precision, in graphs, compiled once it is worth it.

Nothing is compiled for a few images: small batches are replayed from CUDA graphs, large
ones run as they are. Beyond `COMPILE_AFTER` images `kernels.for_inference` tries, on the
device itself, how a block computes fastest, and torch.compile takes the network for
batches of that size, if it then still answers the same.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..models.isotropic import IsotropicMlp
from . import cuda_graph

OnGpu = Literal["fp32", "tf32", "bf16"]

# Compiling takes half a minute, in which a GPU answers so many images anyway.
COMPILE_AFTER = 20_000
# What a compiled network may differ by, in units of the largest logit: some roundings
# of each precision.
_ROUNDING = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}


class OnCuda:
    """Answer images on a GPU; the call of the engine "torch" there.

    Attributes:
        precision: What is computed in.
        seen: Images that were answered.
        compiled: Whether the compiled network answers batches of `batch` images.
        batch: The batch for which it was compiled.
        notes: What was found when it was compiled, in words.
    """

    def __init__(
        self,
        model: IsotropicMlp,
        precision: OnGpu = "fp32",
        *,
        mode: str | None = None,
        compile_after: float = COMPILE_AFTER,
    ) -> None:
        """Prepare the network.

        Args:
            model: In evaluation mode, on the GPU; its weights are copied for bf16.
            precision: "fp32" is exact: neither products nor convolutions use TF32,
                whatever the process allows. "tf32" uses it in both.
            mode: Of torch.compile.
            compile_after: Images after which it is compiled; 0: before the first,
                infinity: never.
        """
        self.precision: OnGpu = precision
        self.seen = 0
        self.compiled = False
        self.batch = 0
        self.notes: tuple[str, ...] = ()
        self._mode = mode
        self._compile_after = compile_after
        self._network = model
        if precision == "bf16":
            self._network = copy.deepcopy(model).to(torch.bfloat16)
        self._few = cuda_graph.graphed(self._eager(self._network))
        self._many: Callable[[Tensor], Tensor] | None = None
        self._tried = False

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of images, float32 on their device."""
        if self.precision == "bf16":
            images = images.to(torch.bfloat16)
        with products(self.precision):
            if self._is_worth_compiling(images):
                self._compile(images)
            self.seen += len(images)
            if self._many is not None and len(images) == self.batch:
                return self._many(images)
            return self._few(images)

    def _is_worth_compiling(self, images: Tensor) -> bool:
        # Smaller batches wait for launches, which a graph saves.
        large = len(images) > cuda_graph.MOST_IMAGES
        return large and not self._tried and self.seen >= self._compile_after

    def _compile(self, images: Tensor) -> None:
        """Compile the fastest way for batches of this size, if it answers the same."""
        from .. import kernels

        self._tried = True
        expected = self._few(images)
        try:
            chosen, self.notes = kernels.for_inference(self._network, len(images))
            compiled: Any = torch.compile(chosen, mode=self._mode, dynamic=False)
            eager = self._eager(compiled)
            found = eager(images).clone()
        # Whatever a compiler or a driver raises is a reason to stay as it was.
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0][:100]
            self._stay_eager(f"{type(error).__name__} {first_line}")
            return
        scale = max(1.0, expected.abs().max().item())
        difference = (found - expected).abs().max().item() / scale
        # "not <=" and not ">": a NaN must not pass.
        if not difference <= _ROUNDING[self.precision]:
            self._stay_eager(f"its logits differ by {difference:.1e} of the largest")
            return
        # A compiled network with graphs of its own overwrites its last answer.
        self._many = lambda images: eager(images).clone()
        self.compiled = True
        self.batch = len(images)

    def _stay_eager(self, reason: str) -> None:
        """Note why nothing was compiled, and warn: it costs speed."""
        sentence = f"not compiled: {reason}"
        self.notes = (*self.notes, sentence)
        warnings.warn(sentence, stacklevel=4)

    def _eager(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the call of a module, without gradients."""

        @torch.inference_mode()
        def run(images: Tensor) -> Tensor:
            return network(images).float()

        return run


def is_on_cuda(model: IsotropicMlp) -> bool:
    """Return whether a network is on a CUDA device.

    Args:
        model: The network.
    """
    return model.stem.proj.weight.device.type == "cuda"


@contextmanager
def products(precision: OnGpu) -> Iterator[None]:
    """Use TF32 in float32 products and convolutions, or keep them exact, in the block.

    Args:
        precision: "tf32" uses it.
    """
    tf32 = precision == "tf32"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    convolutions = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions
