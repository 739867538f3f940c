"""What can be written, and by whom: each target is a function from what is to be
exported to a path.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..images.preprocess import Preprocess
from ..models.families import need_mixer
from ..models.mixer import MixerConfig
from ..runtime.onnx_graph import OPSETS, onnx_graph, quantised
from ..weights import Checkpoint
from ..weights.checkpoint import StoredWeights
from ..weights.huggingface.hub import timm_obstacles, write_folder
from .reload import KEY, Array

_TRACED_OPSETS = range(18, 21)  # torch's exporter does not reach down to older ones


class ExportedModel(nn.Module):
    """The network, after the normalisation of uint8 pixels (B, H, W, C) if that is
    inside.
    """

    def __init__(self, model: nn.Module, normalize: Preprocess | None) -> None:
        super().__init__()
        self.model = model
        self.inside = normalize

    def forward(self, image: Tensor) -> Tensor:
        return self.model(
            self.inside.normalize(image.permute(0, 3, 1, 2)) if self.inside else image
        )

    def input(self, pixels: Array, record: Preprocess) -> Array:
        """What comes in for prepared pixels, uint8 (N, H, W, C)."""
        return (
            pixels
            if self.inside
            else record.normalize(
                torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
            ).numpy()
        )


@dataclass(frozen=True)
class ExportJob:
    """A checkpoint and how it is wanted."""

    checkpoint: Checkpoint
    whole: ExportedModel
    about: str  # the JSON that the export carries
    int8: bool
    images: Array  # as they come in: examples for tracing, and for the ranges of int8
    opset: int | None


def _program(job: ExportJob, most: int | None = None) -> torch.export.ExportedProgram:
    """The network as torch sees it, for any number of images up to `most`."""
    two = torch.from_numpy(
        job.images[[0, -1]]
    )  # a single one would be taken for the only possible number
    with torch.no_grad():
        return torch.export.export(
            job.whole,
            (two,),
            dynamic_shapes={"image": {0: torch.export.Dim("B", max=most)}},
        )


def _graph(job: ExportJob, ranges: Array | None = None) -> Any:
    """An ONNX model: a Mixer's straight from its tensors, another family's by torch's
    exporter.
    """
    model = job.checkpoint.model
    inside = job.whole.inside
    legal = OPSETS if isinstance(model.config, MixerConfig) else _TRACED_OPSETS
    if (opset := job.opset or legal[-1]) not in legal:
        raise UserError(
            f"opset {opset} cannot be written for this network: expected {legal[0]} to {legal[-1]}"
        )
    if isinstance(model.config, MixerConfig):
        how: Any = {
            "opset": opset,
            "normalize": (inside.mean, inside.std) if inside else None,
        }
        if not job.int8:
            return onnx_graph(model.config, model.state_dict(), **how)
        return quantised(
            onnx_graph(
                model.config, model.state_dict(), token_mixing="transposed", **how
            ),
            ranges,
        )
    if job.int8:
        need_mixer(model.config, "int8")
    if importlib.util.find_spec("onnxscript") is None:
        raise UserError(
            "graphs of other families than Mixers need onnxscript; run pip install onnxscript"
        )
    names: Any = {
        "input_names": ["image"],
        "output_names": ["logits" if model.num_classes else "pre_logits"],
    }
    with warnings.catch_warnings(action="ignore"):  # torch's, about itself
        made: Any = torch.onnx.export(
            _program(job), (), dynamo=True, opset_version=opset, verbose=False, **names
        )
    return made.model_proto


def _onnx(job: ExportJob, path: Path) -> None:
    graph = _graph(job)
    graph.metadata_props.add(key=KEY, value=job.about)
    path.write_bytes(graph.SerializeToString())


def _openvino(job: ExportJob, path: Path) -> None:
    import openvino

    model = openvino.Core().read_model(_graph(job, job.images).SerializeToString())
    model.set_rt_info(job.about, KEY)
    openvino.save_model(model, path, compress_to_fp16=False)


def _torch_export(job: ExportJob, path: Path) -> None:
    torch.export.save(_program(job), path, extra_files={f"{KEY}.json": job.about})


def _aoti(job: ExportJob, path: Path) -> None:
    if shutil.which(compiler := os.environ.get("CXX", "g++")) is None:
        raise UserError(
            f"aoti needs a C++ compiler, and there is no {compiler!r}; install g++, or set CXX to another"
        )
    with warnings.catch_warnings(action="ignore"):
        configs = {"aot_inductor.metadata": {KEY: job.about}}
        torch._inductor.aoti_compile_and_package(
            _program(job), package_path=str(path), inductor_configs=configs
        )


def _executorch(job: ExportJob, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(
        _program(job, 64), partitioner=[XnnpackPartitioner()]
    )
    path.write_bytes(lowered.to_executorch().buffer)


def _folder(job: ExportJob, path: Path) -> None:
    point = job.checkpoint
    stored = StoredWeights.of(
        point.model, point.preprocess, point.labels, point.provenance
    )
    if reasons := timm_obstacles(stored):
        raise UserError(
            f"timm and transformers would answer otherwise: {'; '.join(reasons)}; export to onnx instead"
        )
    write_folder(path, stored)


@dataclass(frozen=True)
class Target:
    """Who writes it, how its name ends (not: a folder), how exact it must be, what must
    be installed, what to know.
    """

    write: Callable[[ExportJob, Path], None]
    suffix: str
    # of logits in fp32, in units of the largest if that is above 1; a wrong GELU is
    # 2e-4
    tolerance: float
    packages: tuple[str, ...] = ()
    note: str = ""


TARGETS = {
    "onnx": Target(_onnx, ".onnx", 2e-5, ("onnx", "onnxruntime")),
    "openvino": Target(
        _openvino,
        ".xml",
        2e-5,
        ("onnx", "openvino"),
        "compared with INFERENCE_PRECISION_HINT f32",
    ),
    "torch-export": Target(_torch_export, ".pt2", 1e-5),
    "aoti": Target(
        _aoti, ".pt2", 2e-5, note="for this version of torch, and CPUs like this one"
    ),
    "executorch": Target(
        _executorch, ".pte", 1e-4, ("executorch",), "for at most 64 images at once"
    ),
    "timm": Target(_folder, "", 1e-5, ("timm",)),
    "hf": Target(_folder, "", 1e-5, ("timm", "transformers")),
}
