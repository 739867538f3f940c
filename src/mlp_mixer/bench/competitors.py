"""Who takes part in a bench, and how each is built from the same weights.

Only competitors that are wanted are built: some compile for minutes.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import computed_in
from ..models import IsotropicMlp
from ..runtime import (
    FAST_TOLERANCE,
    TOLERANCE,
    EngineFn,
    engine,
    fastest,
    int8,
    why_not,
)
from ..runtime.cuda_graph import MOST_IMAGES, graphed
from ..runtime.engines import plain
from ..runtime.on_cuda import OnCuda, OnGpu
from ..weights.lineages.timm_names import entry_point
from .measure import DTYPES

Wrap = Callable[[EngineFn], EngineFn]
"""Changes how a forward pass is run."""


class AbsentError(Exception):
    """Say why a competitor cannot take part."""


@dataclass(frozen=True)
class BenchJob:
    """What is measured.

    Attributes:
        model: The reference, in fp32 and evaluation mode, on the device of the images.
        images: A batch.
        labels: Their classes.
        task: "infer", or "train" for one step.
        dtype: A key of `bench.run.TOLERANCE`.
        fast: Whether ours may compute in other precisions too, as `--fast` admits.
    """

    model: IsotropicMlp
    images: Tensor
    labels: Tensor
    task: str
    dtype: str
    fast: bool = False

    @property
    def trains(self) -> bool:
        """Whether the job is a training step."""
        return self.task == "train"

    @property
    def on_cuda(self) -> bool:
        """Whether the job runs on a GPU."""
        return self.images.device.type == "cuda"

    @functools.cached_property
    def expected(self) -> Tensor:
        """What the plain module answers in fp32.

        Logits, or the losses of the first two training steps.
        """
        in_fp32 = replace(self, dtype="fp32")
        # A copy: training would change the reference.
        return answers(self, module(in_fp32, copy.deepcopy(self.model)))

    @functools.cached_property
    def plain_export(self) -> bytes:
        """timm's network as torch's own exporter writes it to ONNX, with a free batch."""
        need("onnx", "onnxscript")
        example = torch.zeros(2, *self.images.shape[1:])
        shapes = ({0: torch.export.Dim("B")},)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "model.onnx"
            torch.onnx.export(
                timm_twin(self),
                (example,),
                str(out),
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
            return out.read_bytes()


@dataclass(frozen=True)
class Competitor:
    """A network that was built for a job.

    Attributes:
        call: Answers the job, or takes one training step and returns the loss.
        precision: What it computes in.
        note: What else to know of it.
        checked: Whether it has the job's weights, so that answers can be compared.
    """

    call: Callable[[], Tensor]
    precision: str = "fp32"
    note: str = ""
    checked: bool = True


def need(*packages: str) -> None:
    """Check that packages are installed.

    Args:
        packages: Their names, as they are imported.

    Raises:
        AbsentError: The first one that is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise AbsentError(f"{package} is not installed")


def answers(job: BenchJob, competitor: Competitor) -> Tensor:
    """Return what is compared with `BenchJob.expected`.

    Args:
        job: The job.
        competitor: One that was built for it.
    """
    # The first loss says that the forward passes agree, the second one that the
    # gradients and the optimizer do.
    calls = 2 if job.trains else 1
    return torch.stack([competitor.call() for _ in range(calls)]).float()


def ours(job: BenchJob) -> Competitor:
    """Build the very object that our commands compute with.

    On the CPU it is the way that `runtime.fastest` finds, on CUDA `runtime.OnCuda`, in
    the mode of torch.compile in which the peer is compiled.

    Args:
        job: The job.

    Raises:
        AbsentError: This machine cannot do the job.
    """
    if job.fast and job.trains:
        # What train.precision=auto comes to.
        precision = computed_in("auto", job.images.device)
        job = replace(job, dtype=precision, fast=False)
    if job.on_cuda or job.dtype == "fp8":
        return as_commands_on_cuda(job)
    if job.trains or job.dtype == "fp16":
        return module(job, copy.deepcopy(job.model))
    if job.dtype == "int8":
        need("onnxruntime", "onnx")
        run = int8(job.model)
        return Competitor(functools.partial(run, job.images), "int8", "onnxruntime")
    tolerance = FAST_TOLERANCE if job.fast else TOLERANCE
    # What `--precision bf16` comes to: the fastest that computes in it.
    asked = "bf16" if job.dtype == "bf16" else "auto"
    chosen = fastest(job.model, job.images, tolerance=tolerance, precision=asked)
    call = functools.partial(chosen.run, job.images)
    return Competitor(call, chosen.way.precision, chosen.way.engine)


# In which precision commands compute for a dtype of the job.
_ON_GPU: dict[str, OnGpu] = {"fp32": "fp32", "bf16": "bf16"}


def as_commands_on_cuda(job: BenchJob, mode: str | None = None) -> Competitor:
    """Build what commands compute with on a GPU, compiled at once.

    Training, fp8 and fp16, which no command answers in, are the kernels alone.
    """
    if job.trains or job.dtype not in _ON_GPU:
        return with_kernels(job, mode=mode)
    precision = "bf16" if job.fast else _ON_GPU[job.dtype]
    run = OnCuda(job.model, precision, mode=mode, compile_after=0)
    run(job.images)
    how = "compiled" if run.compiled else "in a graph"
    note = "; ".join([how, *run.notes])
    return Competitor(functools.partial(run, job.images), precision, note)


def _unchanged(run: EngineFn) -> EngineFn:
    return run


def with_kernels(
    job: BenchJob, wrap: Wrap = _unchanged, mode: str | None = None
) -> Competitor:
    """Build the network with our kernels, compiled on CUDA in a mode of torch.compile.

    Token mixing is fused where it can be; channel mixing is in fp8 if that is the job.
    """
    from .. import kernels

    in_fp8 = job.dtype == "fp8"
    model: Any
    if in_fp8:
        if job.trains:
            raise AbsentError("it does not train")
        if reason := kernels.why_not_fp8(job.model):
            raise AbsentError(reason)
        model = kernels.fp8(job.model)
    elif job.dtype in DTYPES:
        model = copy.deepcopy(job.model)
    else:
        raise AbsentError(f"{job.dtype} on CUDA is not built")
    not_fused = kernels.why_not(job.model, job.images.device)
    note = not_fused or "fused"
    if not not_fused:
        model = kernels.fuse(model)
    if job.on_cuda:
        model = torch.compile(model, mode=mode)
    if in_fp8:
        run = wrap(plain(model))
        images = job.images.bfloat16()
        return Competitor(functools.partial(run, images), "fp8", note)
    return module(job, model, wrap, note=note)


def in_a_graph(job: BenchJob) -> Competitor:
    """Build `ours` with all its launches in one CUDA graph."""
    if not job.on_cuda or job.trains or len(job.images) > MOST_IMAGES:
        raise AbsentError(
            f"it is for inference of at most {MOST_IMAGES} images on CUDA"
        )
    return with_kernels(job, graphed)


def tokens_first(job: BenchJob, mode: str | None = None) -> Competitor:
    """Build the layout with the tokens outermost, compiled on CUDA."""
    from .. import kernels

    if job.trains:
        raise AbsentError("it does not train")
    if mode and not job.on_cuda:
        raise AbsentError("it is for CUDA")
    if reason := kernels.why_not_tokens_first(job.model):
        raise AbsentError(reason)
    model: Any = kernels.TokensFirst(job.model)
    if job.on_cuda:
        model = torch.compile(model, mode=mode)
    return module(job, model, note="tokens first")


def with_engine(job: BenchJob, name: str) -> Competitor:
    """Build one of our engines by its name."""
    if job.trains:
        raise AbsentError("it does not train")
    if reason := why_not(job.model, name):
        raise AbsentError(reason)
    run = engine(job.model, name)
    return Competitor(functools.partial(run, job.images), note=name)


def timm_twin(job: BenchJob) -> nn.Module:
    """Build timm's module with our weights.

    Args:
        job: The job.

    Raises:
        AbsentError: timm is not installed, or has no network of this size.
    """
    need("timm")
    import timm

    config = job.model.config
    entry = entry_point(config)
    if entry is None or entry.needs_register:
        raise AbsentError("timm has no network of this size")
    model = timm.create_model(
        entry.name, num_classes=config.num_classes, **entry.model_args
    )
    model.load_state_dict(job.model.state_dict())
    return model.eval().to(job.images.device)


def module(
    job: BenchJob, model: Any, wrap: Wrap = _unchanged, **more: Any
) -> Competitor:
    """Build a module's forward pass, or its training step with AdamW under autocast."""
    precision = job.dtype
    if precision == "fp8":
        # The nearest that a network without our kernels can do.
        precision = "bf16"
    elif precision not in DTYPES:
        precision = "fp32"
    dtype = DTYPES[precision]
    if not job.trains:
        run = wrap(plain(model.to(dtype).eval()))
        images = job.images.to(dtype)
        return Competitor(functools.partial(run, images), precision, **more)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, weight_decay=0.1, fused=True
    )
    autocast = functools.partial(
        torch.autocast,
        job.images.device.type,
        dtype=dtype,
        enabled=dtype != torch.float32,
    )

    def step() -> Tensor:
        with autocast():
            logits = model(job.images).float()
            loss = nn.functional.cross_entropy(logits, job.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach().clone()

    return Competitor(step, precision, **more)
