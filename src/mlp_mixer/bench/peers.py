"""Everyone who can take part in a bench beside ours: others, and ours in other ways."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import UserError
from ..runtime.engines import run_onnxruntime, run_openvino
from ..runtime.onnx_graph import quantised
from . import competitors
from .competitors import AbsentError, BenchJob, Competitor, need, ours


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
        try:
            run = run_openvino(job.plain_export, "bf16")
        except UserError as error:
            raise AbsentError(str(error)) from error
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
    return competitors.module(
        job, model.to(job.images.device), note=names[which], checked=False
    )


def _timm_bf16(job: BenchJob) -> Competitor:
    """Build timm's network under autocast to bf16; compiled, where it does not train."""
    in_bf16 = replace(job, dtype="bf16")
    if job.trains:
        return competitors.module(in_bf16, competitors.timm_twin(job))
    compiled = torch.compile(competitors.timm_twin(job))

    @torch.inference_mode()
    def run() -> Tensor:
        with torch.autocast(job.images.device.type, dtype=torch.bfloat16):
            logits: Tensor = compiled(job.images)
        return logits.float()

    return Competitor(run, "bf16", "autocast, compiled")


def _ort_int8(job: BenchJob) -> Competitor:
    """Quantise the plain export with onnxruntime's own tool, and run it there."""
    need("onnxruntime", "onnx")
    if job.trains:
        raise AbsentError("it does not train")
    if job.on_cuda:
        raise AbsentError("it is measured on the CPU")
    import onnx

    graph = onnx.load_from_string(job.plain_export)
    # The exporter leaves shapes of tensors that it has transposed since.
    del graph.graph.value_info[:]
    run = run_onnxruntime(quantised(graph).SerializeToString())
    return Competitor(functools.partial(run, job.images), "int8", "dynamic ranges")


def _timm(job: BenchJob) -> Competitor:
    return competitors.module(job, competitors.timm_twin(job))


def _compiled(job: BenchJob, mode: str | None = None) -> Competitor:
    return competitors.module(job, torch.compile(competitors.timm_twin(job), mode=mode))


PEERS: dict[str, Callable[[BenchJob], Competitor]] = {
    "timm": _timm,
    "compile": _compiled,
    "autotune": lambda job: _compiled(job, mode="max-autotune"),
    "ort": lambda job: _exported(job, "onnxruntime"),
    "openvino": lambda job: _exported(job, "openvino"),
    "timm-bf16": _timm_bf16,
    "openvino-bf16": lambda job: _exported(replace(job, dtype="bf16"), "openvino"),
    "ort-int8": _ort_int8,
    "vit": lambda job: _neighbour(job, 0),
    "resnet": lambda job: _neighbour(job, 1),
    "ours-ort": lambda job: competitors.with_engine(job, "onnxruntime"),
    "ours-openvino": lambda job: competitors.with_engine(job, "openvino"),
    "ours-graph": competitors.in_a_graph,
    "ours-autotune": lambda job: competitors.as_commands_on_cuda(
        job, mode="max-autotune"
    ),
    "ours-bf16": lambda job: ours(replace(job, dtype="bf16")),
    "ours-sbc": competitors.tokens_first,
    "ours-sbc-graph": lambda job: competitors.tokens_first(job, mode="reduce-overhead"),
}
# Only where they are named, or with `thorough`: slow to build, or of use to few.
RARE = (
    "autotune",
    "timm-bf16",
    "openvino-bf16",
    "ort-int8",
    "ours-graph",
    "ours-autotune",
    "ours-bf16",
    "ours-sbc",
    "ours-sbc-graph",
)
