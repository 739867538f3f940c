"""Replay a network on CUDA as one graph.

For a batch of a few images, starting a hundred kernels one by one takes longer than
running them. A CUDA graph holds every launch of a forward pass with its addresses, so
it serves one shape of images: they are copied to the place where it reads, and the
answer is copied away from the place where it writes, before the next call overwrites
it.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

Recorded = tuple[Tensor, Callable[[], object], Tensor]
"""The tensor that a graph reads, the call that replays it, the tensor that it writes."""

# With more images the GPU is busy for longer than the CPU needs to start its kernels
# one by one.
MOST_IMAGES = 64
# Each graph keeps the memory of its activations.
MOST_GRAPHS = 8


def graphed(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Replay a forward pass from a CUDA graph for each shape of small batches.

    Graphs are recorded on the first call of a shape, and kept for the last eight
    shapes. Where a graph cannot be made, a warning says why and `run` itself answers.

    Args:
        run: A forward pass for images on a CUDA device, whose kernels depend on no
            value. Weights that change in place are seen.

    Returns:
        A call with the answers of `run`. Several threads may call it at once, on one
        stream. Batches of more than 64 images go to `run`.
    """
    # None stands for a shape that could not be recorded, so that it is tried once.
    graphs: OrderedDict[tuple[object, ...], Recorded | None] = OrderedDict()
    lock = threading.Lock()

    @torch.inference_mode()
    def answer(images: Tensor) -> Tensor:
        if not 0 < len(images) <= MOST_IMAGES:
            return run(images)
        shape = (*images.shape, images.dtype, images.device)
        # The lock covers the copies too: all calls of a shape share its two tensors.
        with lock:
            recorded = graphs.pop(shape) if shape in graphs else _try(run, images)
            # Put back at the end, so that the first is the one used longest ago.
            graphs[shape] = recorded
            if len(graphs) > MOST_GRAPHS:
                graphs.popitem(last=False)
            if recorded:
                reads, replay, writes = recorded
                reads.copy_(images)
                replay()
                return writes.clone()
        return run(images)

    return answer


def _try(run: Callable[[Tensor], Tensor], images: Tensor) -> Recorded | None:
    """Record a graph; warn and return None if that fails."""
    try:
        return _record(run, images)
    except RuntimeError as error:
        # There is too little memory, or the pass does what may not be captured.
        first_line = str(error).partition("\n")[0]
        warnings.warn(
            f"no CUDA graph for {tuple(images.shape)}: {first_line}", stacklevel=3
        )
        return None


def _record(run: Callable[[Tensor], Tensor], images: Tensor) -> Recorded:
    """Record a forward pass on images of this shape."""
    reads = images.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(images.device):
        # A capture may not happen on the default stream, and the warm-up belongs on
        # the stream of the capture (PyTorch's notes on CUDA graphs).
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        here = torch.cuda.current_stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            # First calls compile kernels and allocate the workspaces of libraries,
            # both of which a capture forbids.
            for _ in range(2):
                run(reads)
        # "thread_local": other threads may allocate while this one records.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            writes = run(reads)
        here.wait_stream(aside)
    return reads, graph.replay, writes
