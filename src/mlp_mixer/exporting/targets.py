"""The kinds of export: each target is a function that writes one to a path."""

from __future__ import annotations

import importlib.util
import json
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
from ..runtime.engines import INT8_GROUP, int8_group
from ..runtime.onnx_graph import OPSETS, onnx_graph, quantised, with_int8_weights
from ..weights import Checkpoint
from ..weights.checkpoint import StoredWeights
from ..weights.huggingface.hub import timm_obstacles, write_folder
from ..weights.scores import score_kind
from . import triton, web
from .reload import KEY, Array

# torch's exporter to ONNX does not reach down to older versions.
_TRACED_OPSETS = range(18, 21)
# XNNPACK plans its memory for a largest batch.
_EXECUTORCH_IMAGES = 64


class ExportedModel(nn.Module):
    """The network as it is exported, perhaps after the normalisation of its images.

    Args:
        model: The network.
        normalize: The preprocessing whose normalisation is inside, so that the export
            takes uint8 pixels (B, H, W, C); None to take the network's floats
            (B, C, H, W).
    """

    def __init__(self, model: nn.Module, normalize: Preprocess | None) -> None:
        super().__init__()
        self.model = model
        self.inside = normalize

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (B, K).

        Args:
            image: A batch, as `normalize` says.
        """
        if self.inside is not None:
            image = self.inside.normalize(image.permute(0, 3, 1, 2))
        return self.model(image)

    def input(self, pixels: Array, record: Preprocess) -> Array:
        """Return pixels as the export takes them.

        Args:
            pixels: uint8 (N, H, W, C), cropped and resized.
            record: The network's preprocessing.
        """
        if self.inside is not None:
            return pixels
        channels_first = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        return record.normalize(channels_first).numpy()


@dataclass(frozen=True)
class ExportJob:
    """What is to be exported, and how.

    Attributes:
        checkpoint: The checkpoint.
        network: Its network as it is exported.
        about: The JSON that the export carries.
        int8: Whether matrix products are in int8.
        images: Images as the export takes them: examples for tracing.
        opset: The version of ONNX; None for the latest.
        runtime: What runs the graph in a browser, where that is the target.
    """

    checkpoint: Checkpoint
    network: ExportedModel
    about: str
    int8: bool
    images: Array
    opset: int | None
    runtime: web.Runtime | None = None


def _program(job: ExportJob, most: int | None = None) -> torch.export.ExportedProgram:
    """Trace the network for any number of images up to `most`."""
    # Two examples: torch would take a size of 1 for the only possible one.
    examples = torch.from_numpy(job.images[[0, -1]])
    batch = torch.export.Dim("B", max=most)
    with torch.no_grad():
        return torch.export.export(
            job.network, (examples,), dynamic_shapes={"image": {0: batch}}
        )


def _graph(job: ExportJob) -> Any:
    """Return an ONNX model as onnxruntime takes it."""
    graph = _unrounded_graph(job)
    return quantised(graph) if job.int8 else graph


def _unrounded_graph(job: ExportJob) -> Any:
    """Return an ONNX model; for int8 its weights are right factors, not rounded yet.

    A Mixer's is written straight from its tensors, another family's by torch's
    exporter.
    """
    model = job.checkpoint.model
    is_mixer = isinstance(model.config, MixerConfig)
    legal = OPSETS if is_mixer else _TRACED_OPSETS
    opset = job.opset or legal[-1]
    if opset not in legal:
        raise UserError(
            f"opset {opset} cannot be written for this network: expected {legal[0]} to "
            f"{legal[-1]}"
        )
    if not isinstance(model.config, MixerConfig):
        if job.int8:
            need_mixer(model.config, "int8")
        return _traced_graph(job, opset)
    inside = job.network.inside
    normalize = None if inside is None else (inside.mean, inside.std)
    return onnx_graph(
        model.config,
        model.state_dict(),
        token_mixing="transposed" if job.int8 else "left",
        opset=opset,
        normalize=normalize,
    )


def _traced_graph(job: ExportJob, opset: int) -> Any:
    """Return an ONNX model that torch's exporter makes."""
    if importlib.util.find_spec("onnxscript") is None:
        raise UserError(
            "graphs of other families than Mixers need onnxscript; "
            "run pip install onnxscript"
        )
    output = "logits" if job.checkpoint.model.num_classes else "pre_logits"
    # The warnings are torch's, about its own insides.
    with warnings.catch_warnings(action="ignore"):
        made: Any = torch.onnx.export(
            _program(job),
            (),
            dynamo=True,
            opset_version=opset,
            verbose=False,
            input_names=["image"],
            output_names=[output],
        )
    return made.model_proto


def _onnx(job: ExportJob, path: Path) -> None:
    graph = _graph(job)
    graph.metadata_props.add(key=KEY, value=job.about)
    path.write_bytes(graph.SerializeToString())


def _openvino(job: ExportJob, path: Path) -> None:
    import openvino

    graph = _unrounded_graph(job)
    if job.int8:
        graph = with_int8_weights(graph)
    model = openvino.Core().read_model(graph.SerializeToString())
    model.set_rt_info(job.about, KEY)
    if job.int8:
        # Whoever reads the file has it computed so, without knowing of it.
        group = int8_group(need_mixer(job.checkpoint.model.config, "int8"))
        model.set_rt_info(str(group), ["runtime_options", INT8_GROUP])
    # By itself it would store the weights in 16 bits.
    openvino.save_model(model, path, compress_to_fp16=False)


def _torch_export(job: ExportJob, path: Path) -> None:
    torch.export.save(_program(job), path, extra_files={f"{KEY}.json": job.about})


def _aoti(job: ExportJob, path: Path) -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"aoti needs a C++ compiler, and there is no {compiler!r}; install g++, or "
            "set CXX to another"
        )
    configs = {"aot_inductor.metadata": {KEY: job.about}}
    with warnings.catch_warnings(action="ignore"):
        torch._inductor.aoti_compile_and_package(
            _program(job), package_path=str(path), inductor_configs=configs
        )


def _executorch(job: ExportJob, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(
        _program(job, _EXECUTORCH_IMAGES), partitioner=[XnnpackPartitioner()]
    )
    path.write_bytes(lowered.to_executorch().buffer)


def _folder(job: ExportJob, path: Path) -> None:
    """Write a folder in the layout of Hugging Face, which timm reads as well."""
    checkpoint = job.checkpoint
    stored = StoredWeights.of(
        checkpoint.model,
        checkpoint.preprocess,
        checkpoint.labels,
        checkpoint.provenance,
    )
    if reasons := timm_obstacles(stored):
        raise UserError(
            f"timm and transformers would give other answers: {'; '.join(reasons)}; "
            "export to onnx instead"
        )
    write_folder(path, stored)


def _web(job: ExportJob, path: Path) -> None:
    """Write a folder with a page that holds everything."""
    checkpoint = job.checkpoint
    assert job.runtime is not None
    web.check_network(checkpoint.preprocess, checkpoint.model.num_classes)
    about = json.loads(job.about) | web.described(checkpoint, int8=job.int8)
    web.write_page(path, _graph(job).SerializeToString(), about, job.runtime)


def _triton(job: ExportJob, path: Path) -> None:
    """Write the folder of a model for NVIDIA's Triton."""
    graph = _graph(job)
    graph.metadata_props.add(key=KEY, value=job.about)
    checkpoint = job.checkpoint
    scores = score_kind(checkpoint.provenance, checkpoint.model.num_classes)
    triton.write_model(path, graph, checkpoint.labels or (), scores, job.about)


@dataclass(frozen=True)
class Target:
    """A kind of export.

    Attributes:
        write: Writes it to a path.
        suffix: How the file's name ends; "" for a folder.
        tolerance: The largest difference of logits in fp32 that is accepted, in units
            of the largest logit if that is above 1. A wrong GELU differs by 2e-4.
        packages: What must be installed to write and to run it.
        note: What its users should know.
        inside: Whether a folder may hold the normalisation, as all files may.
    """

    write: Callable[[ExportJob, Path], None]
    suffix: str
    tolerance: float
    packages: tuple[str, ...] = ()
    note: str = ""
    inside: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether the export is a folder and not a file."""
        return not self.suffix

    @property
    def is_onnx(self) -> bool:
        """Whether it is made from an ONNX graph."""
        return "onnx" in self.packages


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
        _aoti,
        ".pt2",
        2e-5,
        note="for this version of torch, and for CPUs like this one",
    ),
    "executorch": Target(
        _executorch,
        ".pte",
        1e-4,
        ("executorch",),
        f"for at most {_EXECUTORCH_IMAGES} images at once",
    ),
    "timm": Target(_folder, "", 1e-5, ("timm",)),
    "hf": Target(_folder, "", 1e-5, ("timm", "transformers")),
    "web": Target(
        _web,
        "",
        2e-5,
        ("onnx", "onnxruntime"),
        "open index.html by a double click, or put the folder on any web server",
    ),
    "triton": Target(
        _triton,
        "",
        2e-5,
        ("onnx", "onnxruntime"),
        "the folder's name is the model's; tritonserver --model-repository takes the "
        "folder above it",
        inside=True,
    ),
}
