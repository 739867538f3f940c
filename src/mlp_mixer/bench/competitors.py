"""Who takes part, and how each is built from the same weights; only those that are
wanted are built.
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


class AbsentError(Exception):
    """Why a competitor cannot take part."""


@dataclass(frozen=True)
class BenchJob:
    """What is measured: `model` is fp32, in evaluation mode, on the device of the
    images, and the reference.
    """

    model: IsotropicMlp
    images: Tensor
    labels: Tensor
    task: str
    dtype: str

    @functools.cached_property
    def expected(self) -> Tensor:
        """Of the plain module in fp32: the logits, or the losses of the first two
        training steps.
        """
        return answers(
            self, _torch(replace(self, dtype="fp32"), copy.deepcopy(self.model))
        )

    @functools.cached_property
    def plain_export(self) -> bytes:
        """timm's network as torch's own exporter writes it to ONNX, with a free batch."""
        need("onnx", "onnxscript")
        example = torch.zeros(2, *self.images.shape[1:])
        shapes = ({0: torch.export.Dim("B")},)
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/model.onnx"
            torch.onnx.export(
                timm_twin(self),
                (example,),
                out,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
            return Path(out).read_bytes()


@dataclass(frozen=True)
class Competitor:
    """A call that answers the job, or takes one training step and gives the loss."""

    call: Callable[[], Tensor]
    precision: str = "fp32"
    note: str = ""
    checked: bool = True  # has the job's weights, so its answers can be compared


def need(*packages: str) -> None:
    """`AbsentError` for the first that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise AbsentError(f"{package} is not installed")


def answers(job: BenchJob, competitor: Competitor) -> Tensor:
    """What is compared with `BenchJob.expected`."""
    return torch.stack(
        [competitor.call() for _ in range(2 if job.task == "train" else 1)]
    ).float()


def ours(job: BenchJob) -> Competitor:
    """The fastest way we have: an engine of `runtime` on the CPU, our kernels under
    torch.compile on CUDA.
    """
    if job.images.device.type == "cuda" or job.dtype == "fp8":
        return _kernels(job)
    if job.task == "train" or job.dtype in ("bf16", "fp16"):
        return _torch(job, copy.deepcopy(job.model))
    if job.dtype == "int8":
        need("onnxruntime", "onnx")
        return Competitor(
            functools.partial(int8(job.model), job.images), "int8", "onnxruntime"
        )
    name, run = fastest(job.model, job.images)
    return Competitor(functools.partial(run, job.images), note=name)


def _kernels(
    job: BenchJob,
    wrap: Callable[[EngineFn], EngineFn] = lambda run: run,
    mode: str | None = None,
) -> Competitor:
    """Fused token mixing where it can be, fp8 if that is the job, on CUDA compiled in a
    mode of `torch.compile`.
    """
    from ..kernels import fp8, fuse, why_not_fp8
    from ..kernels import why_not as unfused

    device = job.images.device
    narrow = job.dtype == "fp8"
    if narrow and (
        missing := "it does not train"
        if job.task == "train"
        else why_not_fp8(job.model)
    ):
        raise AbsentError(missing)
    if not narrow and job.dtype not in DTYPES:
        raise AbsentError(f"{job.dtype} on CUDA is not built")
    reason = unfused(job.model, device)
    model: Any = fp8(job.model) if narrow else copy.deepcopy(job.model)
    model = model if reason else fuse(model)
    model = torch.compile(model, mode=mode) if device.type == "cuda" else model
    if narrow:
        return Competitor(
            functools.partial(wrap(plain(model)), job.images.bfloat16()),
            "fp8",
            reason or "fused",
        )
    return _torch(job, model, wrap, note=reason or "fused")


def _graph(job: BenchJob) -> Competitor:
    """`ours` with all its launches in one."""
    if (
        job.images.device.type != "cuda"
        or job.task == "train"
        or len(job.images) > MOST_IMAGES
    ):
        raise AbsentError(
            f"it is for inference of at most {MOST_IMAGES} images on CUDA"
        )
    return _kernels(job, graphed)


def _engine(job: BenchJob, name: str) -> Competitor:
    if (
        missing := "it does not train"
        if job.task == "train"
        else why_not(job.model, name)
    ):
        raise AbsentError(missing)
    return Competitor(functools.partial(engine(job.model, name), job.images), note=name)


def timm_twin(job: BenchJob) -> nn.Module:
    """timm's module with our weights."""
    need("timm")
    import timm

    found = entry_point(job.model.config)
    if found is None or found.needs_register:
        raise AbsentError("timm has no network of this size")
    model = timm.create_model(
        found.name, num_classes=job.model.config.num_classes, **found.model_args
    )
    model.load_state_dict(job.model.state_dict())
    return model.eval().to(job.images.device)


def _torch(
    job: BenchJob,
    model: Any,
    wrap: Callable[[EngineFn], EngineFn] = lambda run: run,
    **more: Any,
) -> Competitor:
    """A forward pass in the dtype (bf16 beside fp8), or forward, cross-entropy,
    backward and AdamW under autocast.
    """
    precision = (
        "bf16" if job.dtype == "fp8" else job.dtype if job.dtype in DTYPES else "fp32"
    )
    dtype = DTYPES[precision]
    if job.task != "train":
        run = wrap(plain(model.to(dtype).eval()))
        return Competitor(
            functools.partial(run, job.images.to(dtype)), precision, **more
        )
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, weight_decay=0.1, fused=True
    )

    def step() -> Tensor:
        with torch.autocast(
            job.images.device.type, dtype=dtype, enabled=dtype != torch.float32
        ):
            loss = nn.functional.cross_entropy(model(job.images).float(), job.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach().clone()

    return Competitor(step, precision, **more)


def _exported(job: BenchJob, package: str) -> Competitor:
    """A runtime with its defaults on the plain export; openvino computes in bf16 if
    that is the job's.
    """
    need(package)
    if job.task == "train" or job.images.device.type == "cuda":
        raise AbsentError(
            "it does not train" if job.task == "train" else "it is measured on the CPU"
        )
    narrow = package == "openvino" and job.dtype == "bf16"
    graph = job.plain_export
    run = (
        run_onnxruntime(graph)
        if package == "onnxruntime"
        else run_openvino(graph, "bf16" if narrow else "f32")
    )
    return Competitor(functools.partial(run, job.images), "bf16" if narrow else "fp32")


# What people would take instead, of like accuracy or like cost: (C, P) -> ViT, ResNet.
_NEIGHBOURS = {
    (512, 32): ("vit_small_patch32_224", "resnet18"),
    (512, 16): ("vit_small_patch16_224", "resnet34"),
    (768, 32): ("vit_base_patch32_224", "resnet34"),
    (768, 16): ("vit_base_patch16_224", "resnet50"),
    (1024, 32): ("vit_large_patch32_224", "resnet101"),
    (1024, 16): ("vit_large_patch16_224", "resnet152"),
}


def _neighbour(job: BenchJob, which: int) -> Competitor:
    need("timm")
    import timm

    config = job.model.config
    names = _NEIGHBOURS.get((config.hidden_dim, config.patch_size))
    if names is None or config.image_size != (224, 224):
        raise AbsentError("none is near in size")
    model = timm.create_model(names[which], num_classes=config.num_classes).to(
        job.images.device
    )
    return _torch(job, model, note=names[which], checked=False)


PEERS: dict[str, Callable[[BenchJob], Competitor]] = {
    "timm": lambda job: _torch(job, timm_twin(job)),
    "compile": lambda job: _torch(job, torch.compile(timm_twin(job))),
    "autotune": lambda job: _torch(
        job, torch.compile(timm_twin(job), mode="max-autotune")
    ),
    "ort": lambda job: _exported(job, "onnxruntime"),
    "openvino": lambda job: _exported(job, "openvino"),
    "vit": lambda job: _neighbour(job, 0),
    "resnet": lambda job: _neighbour(job, 1),
    "ours-ort": lambda job: _engine(job, "onnxruntime"),
    "ours-openvino": lambda job: _engine(job, "openvino"),
    "ours-graph": _graph,
    "ours-autotune": lambda job: _kernels(job, mode="max-autotune"),
    "ours-bf16": lambda job: ours(replace(job, dtype="bf16")),
}
RARE = (
    "autotune",
    "ours-graph",
    "ours-autotune",
    "ours-bf16",
)  # only where they are named, or with `thorough`
