"""The engines that run a Mixer behind one call, each compared with the plain module
before it may answer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UserError, unknown
from ..models.families import need_mixer
from ..models.mixer import MixerConfig, MlpMixer
from .cuda_graph import graphed
from .onnx_graph import onnx_graph, quantised
from .packed import can_pack, packed

EngineFn = Callable[[Tensor], Tensor]
"""Images (B, in_channels, H, W) on the model's device -> logits (B, K) in float32 on
the same device.
"""

# largest difference from the plain module in fp32, in units of the largest logit if
# that is above 1
TOLERANCE = 1e-4
# seconds of computing that "auto" leaves to the plain module: about what preparing and
# trying costs
PATIENCE = 3.0
_ROUNDS, _TRIAL = (
    (3, 12),
    2.0,
)  # of the trial: calls of each engine that are measured, at least and at most; seconds
_TRIED = 8  # the most images in a call of the trial


def engine(model: MlpMixer, name: str = "auto") -> EngineFn:
    """The model, in evaluation mode, behind one call. Weights that change later may or
    may not be seen.

    name: "torch" (`packed` on the CPU in fp32, fused kernels and CUDA graphs on a GPU),
        "plain", "onnxruntime" or "openvino" (CPU, fp32), or "auto": the plain module
        for the first seconds, then the `fastest` here, which may be another one for
        single images than for several.
    Raises `UserError` if the engine is not known or not installed, cannot run this
    model, or answers differently.
    """
    if name not in ENGINES and name != "auto":
        raise unknown("engine", name, ["auto", *ENGINES])
    if name == "auto":
        return _Patient(model)
    if reason := why_not(model, name):
        raise UserError(
            f"the engine {name!r} cannot run this model: {reason}; use engine='torch' or 'auto'"
        )
    run = ENGINES[name](model.eval())
    difference, scale = disagreement(run, model)
    if (
        model.stem.proj.weight.dtype == torch.float32
        and not difference <= TOLERANCE * scale
    ):
        raise UserError(
            f"the engine {name!r} differs from torch by {difference:.1e} in the logits; use engine='auto'"
        )
    return run


def fastest(model: MlpMixer, images: Tensor) -> tuple[str, EngineFn]:
    """The engine that answers these images soonest on this machine now, by trying: its
    name, and itself.

    Which one that is differs between processors, networks and batches. Engines that
    cannot run the model are left out.
    """
    runs: dict[str, EngineFn] = {}
    for name in (name for name in ENGINES if name != "plain"):
        with contextlib.suppress(UserError):
            runs[name] = engine(model, name)
    if len(runs) < 2:
        return next(iter(runs.items()), ("torch", plain(model)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    until = time.perf_counter() + _TRIAL
    for number in range(_ROUNDS[1]):
        for name, run in runs.items():
            run(
                images[:_TRIED]
            )  # unmeasured: threads of the engine before it may still spin
            began = time.perf_counter()
            run(images[:_TRIED])
            times[name].append(time.perf_counter() - began)
        if number + 1 >= _ROUNDS[0] and time.perf_counter() > until:
            break
    best = min(times, key=lambda name: statistics.median(times[name]))
    return best, runs[best]


def why_not(model: MlpMixer, name: str) -> str | None:
    """Why this engine cannot run the model, in words; None if it can. Packages are
    looked up, not imported.
    """
    if name in ("torch", "plain"):
        return None
    if not isinstance(model.config, MixerConfig):
        return "its graphs are those of Mixers, and this network is of another family"
    if missing := [
        package
        for package in (name, "onnx")
        if importlib.util.find_spec(package) is None
    ]:
        return f"{missing[0]} is not installed (pip install {' '.join(missing)})"
    weight = model.stem.proj.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return f"it is for fp32 on the CPU, and the weights are {str(weight.dtype)[6:]} on {weight.device.type}"
    return None


@torch.inference_mode()
def disagreement(run: EngineFn, model: MlpMixer) -> tuple[float, float]:
    """Largest difference from the plain module on two fixed images of noise; the scale,
    max(1, largest logit).
    """
    weight = model.stem.proj.weight
    config = model.config
    noise = torch.randn(
        2,
        config.in_channels,
        *config.image_size,
        generator=torch.Generator().manual_seed(0),
    )
    images = noise.to(weight.device, weight.dtype)
    expected = model(images).float()
    return (run(images) - expected).abs().max().item(), max(
        1.0, expected.abs().max().item()
    )


class _Patient:
    """The plain module, until it has computed for so long that a faster engine is worth
    its preparation.
    """

    def __init__(self, model: MlpMixer) -> None:
        self.model = model.eval()
        self.plain = plain(model)
        self.spent = 0.0
        self.runs: dict[bool, EngineFn] = {}  # for several images, and for one

    def __call__(self, images: Tensor) -> Tensor:
        run = self.runs.get(len(images) > 1)
        if run is None and self.spent >= PATIENCE and len(images):
            _, run = fastest(self.model, images)
            self.runs[len(images) > 1] = run
        if run is not None:
            return run(images)
        began = time.perf_counter()
        answer = self.plain(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        self.spent += time.perf_counter() - began
        return answer


def plain(model: nn.Module) -> EngineFn:
    """The module itself, without gradients."""
    return torch.inference_mode()(lambda images: model(images).float())


def _torch(model: MlpMixer) -> EngineFn:
    if model.stem.proj.weight.device.type == "cuda":
        from ..kernels import fuse, why_not

        return graphed(plain(model if why_not(model) else fuse(model)))
    return packed(model) if can_pack(model) else plain(model)


ENGINES: dict[str, Callable[[MlpMixer], EngineFn]] = {
    "torch": _torch,
    "plain": plain,
    "onnxruntime": lambda model: run_onnxruntime(
        onnx_graph(
            need_mixer(model.config, "onnx_graph"), model.state_dict()
        ).SerializeToString()
    ),
    "openvino": lambda model: run_openvino(
        onnx_graph(
            need_mixer(model.config, "onnx_graph"), model.state_dict()
        ).SerializeToString()
    ),
}


def run_onnxruntime(graph: bytes) -> EngineFn:
    """An ONNX graph of one input and one output in onnxruntime, with as many threads as
    torch has.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"]
    )
    given = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(
        session.run(None, {given: images.numpy()})[0]
    )


def run_openvino(graph: bytes, precision: Literal["f32", "bf16"] = "f32") -> EngineFn:
    """An ONNX graph of one input and one output in openvino, which unless told computes
    in bf16 where it can.
    """
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    core = openvino.Core()
    request = core.compile_model(
        core.read_model(graph), "CPU", hints
    ).create_infer_request()
    return lambda images: torch.from_numpy(
        request.infer({0: images.numpy()}, share_inputs=True)[0]
    )


def int8(model: MlpMixer) -> EngineFn:
    """Weights in int8 per output channel, activations quantised as they come:
    onnxruntime on the CPU, not exact.
    """
    graph = onnx_graph(
        need_mixer(model.config, "int8"), model.state_dict(), token_mixing="transposed"
    )
    return run_onnxruntime(quantised(graph).SerializeToString())
