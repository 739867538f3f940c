"""A network on CUDA replayed as one graph, for batches so small that starting kernels
takes longer than running them.

A graph holds every launch of a forward pass with its addresses, so it serves one shape
    of images: they are copied to
where it reads, and the answer is copied away from where it writes, before the next
question overwrites it.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

Recorded = tuple[
    Tensor, Callable[[], object], Tensor
]  # where it reads, how it is run, where it writes

# with more the GPU is busy for longer than the CPU needs to start its kernels one by
# one
MOST_IMAGES = 64
MOST_GRAPHS = 8  # each keeps the memory of its activations


def graphed(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`run`, for images on a CUDA device, from a graph of its own for each of the last
    few shapes of at most 64 images.

    run: kernels that depend on no value. Weights that change in place are seen. Several
        threads may ask at once, on one
    stream. Where a graph cannot be made, a warning says why and `run` itself answers.
    """
    graphs: OrderedDict[tuple[object, ...], Recorded | None] = OrderedDict()
    lock = threading.Lock()

    @torch.inference_mode()
    def answer(images: Tensor) -> Tensor:
        if not 0 < len(images) <= MOST_IMAGES:
            return run(images)
        shape = (*images.shape, images.dtype, images.device)
        with lock:
            graphs[shape] = recorded = (
                graphs.pop(shape) if shape in graphs else _try(run, images)
            )
            if len(graphs) > MOST_GRAPHS:
                graphs.popitem(last=False)  # asked for longest ago
            if recorded:
                given, replay, got = recorded
                given.copy_(images)
                replay()
                return got.clone()
        return run(images)

    return answer


def _try(run: Callable[[Tensor], Tensor], images: Tensor) -> Recorded | None:
    try:
        return _record(run, images)
    except RuntimeError as error:  # too little memory, or what may not be captured
        warnings.warn(
            f"no CUDA graph for {tuple(images.shape)}: {str(error).partition(chr(10))[0]}",
            stacklevel=3,
        )
        return None


def _record(run: Callable[[Tensor], Tensor], images: Tensor) -> Recorded:
    given = images.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(images.device):
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        here = torch.cuda.current_stream()
        aside.wait_stream(here)
        with torch.cuda.stream(
            aside
        ):  # compiles kernels and makes libraries' workspaces, which a capture forbids
            for _ in range(2):
                run(given)
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            got = run(given)
        here.wait_stream(aside)
    return given, graph.replay, got
