"""The engines that run a Mixer behind one call, each compared with the plain module before it may answer."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UserError, unknown
from ..models.families import need_mixer
from ..models.mixer import MixerConfig, MlpMixer
from .onnx_graph import onnx_graph
from .packed import can_pack, packed

Run = Callable[[Tensor], Tensor]
"""Images (B, in_channels, H, W) on the model's device -> logits (B, K) in float32 on the same device."""

TOLERANCE = 1e-4  # largest difference from the plain module in fp32, in units of the largest logit if that is above 1
PATIENCE = 32  # images that "auto" leaves to the plain module, for preparing another engine costs as much as several


def engine(model: MlpMixer, name: str = "auto") -> Run:
    """The model, in evaluation mode, behind one call. Weights that change later may or may not be seen.

    name: "torch" (`packed` on the CPU in fp32, the fused kernels on a CUDA device where they can be), "onnxruntime" or
        "openvino" (CPU, fp32), or "auto": the plain module for the first images, then `fastest`.
    Raises `UserError` if the engine is not known or not installed, cannot run this model, or answers differently.
    """
    if name not in ENGINES and name != "auto":
        raise unknown("engine", name, ["auto", *ENGINES])
    if name == "auto":
        return _Patient(model)
    if reason := why_not(model, name):
        raise UserError(f"the engine {name!r} cannot run this model: {reason}; use engine='torch' or 'auto'")
    run = ENGINES[name](model.eval())
    difference, scale = disagreement(run, model)
    if model.stem.proj.weight.dtype == torch.float32 and not difference <= TOLERANCE * scale:
        raise UserError(f"the engine {name!r} differs from torch by {difference:.1e} in the logits; use engine='auto'")
    return run


def fastest(model: MlpMixer) -> str:
    """The engine for many images, as measured: packed torch where the CPU has AVX-512, else onnxruntime if it can."""
    pack = torch.backends.cpu.get_cpu_capability() == "AVX512" and can_pack(model)
    return "torch" if pack or why_not(model, "onnxruntime") else "onnxruntime"


def why_not(model: MlpMixer, name: str) -> str | None:
    """Why this engine cannot run the model, in words; None if it can. Packages are looked up, not imported."""
    if name == "torch":
        return None
    if not isinstance(model.config, MixerConfig):
        return "its graphs are those of Mixers, and this network is of another family"
    if missing := [package for package in (name, "onnx") if importlib.util.find_spec(package) is None]:
        return f"{missing[0]} is not installed (pip install {' '.join(missing)})"
    weight = model.stem.proj.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return f"it is for fp32 on the CPU, and the weights are {str(weight.dtype)[6:]} on {weight.device.type}"
    return None


@torch.inference_mode()
def disagreement(run: Run, model: MlpMixer) -> tuple[float, float]:
    """Largest difference from the plain module on two fixed images of noise; the scale, max(1, largest logit)."""
    weight, config = model.stem.proj.weight, model.config
    noise = torch.randn(2, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(0))
    images = noise.to(weight.device, weight.dtype)
    expected = model(images).float()
    return (run(images) - expected).abs().max().item(), max(1.0, expected.abs().max().item())


class _Patient:
    """The plain module, until so many images have come that a faster engine is worth its preparation."""

    def __init__(self, model: MlpMixer) -> None:
        self.model, self.run, self.seen = model.eval(), plain(model), 0

    def __call__(self, images: Tensor) -> Tensor:
        before, self.seen = self.seen, self.seen + len(images)
        if before <= PATIENCE < self.seen:
            with contextlib.suppress(UserError):  # then the plain module it is
                self.run = engine(self.model, fastest(self.model))
        return self.run(images)


def plain(model: nn.Module) -> Run:
    """The module itself, without gradients."""
    return torch.inference_mode()(lambda images: model(images).float())


def _torch(model: MlpMixer) -> Run:
    if model.stem.proj.weight.device.type == "cuda":
        from ..kernels import fuse, why_not

        return plain(model if why_not(model) else fuse(model))
    return packed(model) if can_pack(model) else plain(model)


ENGINES: dict[str, Callable[[MlpMixer], Run]] = {
    "torch": _torch,
    "onnxruntime": lambda model: run_onnxruntime(
        onnx_graph(need_mixer(model.config, "onnx_graph"), model.state_dict()).SerializeToString()
    ),
    "openvino": lambda model: run_openvino(
        onnx_graph(need_mixer(model.config, "onnx_graph"), model.state_dict()).SerializeToString()
    ),
}


def run_onnxruntime(graph: bytes) -> Run:
    """An ONNX graph of one input and one output in onnxruntime, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {given: images.numpy()})[0])


def run_openvino(graph: bytes, precision: Literal["f32", "bf16"] = "f32") -> Run:
    """An ONNX graph of one input and one output in openvino, which unless told computes in bf16 where it can."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    core = openvino.Core()
    request = core.compile_model(core.read_model(graph), "CPU", hints).create_infer_request()
    return lambda images: torch.from_numpy(request.infer({0: images.numpy()}, share_inputs=True)[0])


def int8(model: MlpMixer) -> Run:
    """Weights in int8 per output channel, activations quantised as they come: onnxruntime on the CPU, not exact."""
    from onnxruntime.quantization import QuantType, quant_utils, quantize_dynamic

    graph = onnx_graph(need_mixer(model.config, "onnx_graph"), model.state_dict(), token_mixing="transposed")
    quant_utils.add_pre_process_metadata(graph)  # else it asks for a pass that does nothing here
    info = Path("/proc/cpuinfo")
    saturates = not (info.is_file() and "vnni" in info.read_text())  # in sums of pairs, unless weights have 7 bits
    how = {"per_channel": True, "reduce_range": saturates, "weight_type": QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        quantize_dynamic(graph, out, op_types_to_quantize=["MatMul"], **how)
        return run_onnxruntime(out.read_bytes())
