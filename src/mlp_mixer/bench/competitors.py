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

from ..models import IsotropicMlp
from ..runtime import EngineFn, engine, fastest, int8, why_not
from ..runtime.cuda_graph import MOST_IMAGES, graphed
from ..runtime.engines import plain, run_onnxruntime, run_openvino
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
    """

    model: IsotropicMlp
    images: Tensor
    labels: Tensor
    task: str
    dtype: str

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
        return answers(self, _torch(in_fp32, copy.deepcopy(self.model)))

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
    """Build the fastest way that we have.

    On the CPU it is an engine of `runtime`, on CUDA our kernels under torch.compile.

    Args:
        job: The job.

    Raises:
        AbsentError: This machine cannot do the job.
    """
    if job.on_cuda or job.dtype == "fp8":
        return _kernels(job)
    if job.trains or job.dtype in ("bf16", "fp16"):
        return _torch(job, copy.deepcopy(job.model))
    if job.dtype == "int8":
        need("onnxruntime", "onnx")
        run = int8(job.model)
        return Competitor(functools.partial(run, job.images), "int8", "onnxruntime")
    name, run = fastest(job.model, job.images)
    return Competitor(functools.partial(run, job.images), note=name)


def _unchanged(run: EngineFn) -> EngineFn:
    return run


def _kernels(
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
    return _torch(job, model, wrap, note=note)


def _graph(job: BenchJob) -> Competitor:
    """Build `ours` with all its launches in one CUDA graph."""
    if not job.on_cuda or job.trains or len(job.images) > MOST_IMAGES:
        raise AbsentError(
            f"it is for inference of at most {MOST_IMAGES} images on CUDA"
        )
    return _kernels(job, graphed)


def _tokens_first(job: BenchJob, mode: str | None = None) -> Competitor:
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
    return _torch(job, model, note="tokens first")


def _engine(job: BenchJob, name: str) -> Competitor:
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


def _torch(
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


def _exported(job: BenchJob, package: str) -> Competitor:
    """Run the plain export in a runtime with its defaults, as most people would.

    openvino computes in bf16 if that is the job's dtype.
    """
    need(package)
    if job.trains:
        raise AbsentError("it does not train")
    if job.on_cuda:
        raise AbsentError("it is measured on the CPU")
    if package == "onnxruntime":
        run = run_onnxruntime(job.plain_export)
        return Competitor(functools.partial(run, job.images))
    if job.dtype == "bf16":
        run = run_openvino(job.plain_export, "bf16")
        return Competitor(functools.partial(run, job.images), "bf16")
    run = run_openvino(job.plain_export)
    return Competitor(functools.partial(run, job.images))


# What people would take instead of a Mixer, of like accuracy or like cost.
_NEIGHBOURS = {
    # (C, P): ViT, ResNet
    (512, 32): ("vit_small_patch32_224", "resnet18"),
    (512, 16): ("vit_small_patch16_224", "resnet34"),
    (768, 32): ("vit_base_patch32_224", "resnet34"),
    (768, 16): ("vit_base_patch16_224", "resnet50"),
    (1024, 32): ("vit_large_patch32_224", "resnet101"),
    (1024, 16): ("vit_large_patch16_224", "resnet152"),
}


def _neighbour(job: BenchJob, which: int) -> Competitor:
    """Build timm's network of another kind, of about the size of the model."""
    need("timm")
    import timm

    config = job.model.config
    names = _NEIGHBOURS.get((config.hidden_dim, config.patch_size))
    if names is None or config.image_size != (224, 224):
        raise AbsentError("none is near in size")
    model = timm.create_model(names[which], num_classes=config.num_classes)
    # Its weights are its own, so there is nothing to compare its answers with.
    return _torch(job, model.to(job.images.device), note=names[which], checked=False)


def _timm(job: BenchJob) -> Competitor:
    return _torch(job, timm_twin(job))


def _compiled(job: BenchJob, mode: str | None = None) -> Competitor:
    return _torch(job, torch.compile(timm_twin(job), mode=mode))


PEERS: dict[str, Callable[[BenchJob], Competitor]] = {
    "timm": _timm,
    "compile": _compiled,
    "autotune": lambda job: _compiled(job, mode="max-autotune"),
    "ort": lambda job: _exported(job, "onnxruntime"),
    "openvino": lambda job: _exported(job, "openvino"),
    "vit": lambda job: _neighbour(job, 0),
    "resnet": lambda job: _neighbour(job, 1),
    "ours-ort": lambda job: _engine(job, "onnxruntime"),
    "ours-openvino": lambda job: _engine(job, "openvino"),
    "ours-graph": _graph,
    "ours-autotune": lambda job: _kernels(job, mode="max-autotune"),
    "ours-bf16": lambda job: ours(replace(job, dtype="bf16")),
    "ours-sbc": _tokens_first,
    "ours-sbc-graph": lambda job: _tokens_first(job, mode="reduce-overhead"),
}
# Only where they are named, or with `thorough`: slow to build, or of use to few.
RARE = (
    "autotune",
    "ours-graph",
    "ours-autotune",
    "ours-bf16",
    "ours-sbc",
    "ours-sbc-graph",
)
