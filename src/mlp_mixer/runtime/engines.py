"""The engines that run a Mixer behind one call.

Each is compared with the plain module before it may answer: a runtime that computes
another GELU, or in bf16 without being asked, is seen here and not in production.
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
from ..models.isotropic import IsotropicMlp
from ..models.mixer import MixerConfig
from .cuda_graph import graphed
from .onnx_graph import onnx_graph, quantised
from .packed import can_pack, packed

EngineFn = Callable[[Tensor], Tensor]
"""Images (B, in_channels, H, W) on the model's device -> logits (B, K) in float32.

The logits are on the same device.
"""

# The largest difference from the plain module in fp32, in units of the largest logit if
# that is above 1.
TOLERANCE = 1e-4
# Seconds of computing that "auto" leaves to the plain module: about what it costs to
# prepare and to try the others. Whoever asks for a few images never pays that.
PATIENCE = 3.0

# The trial of "auto": each engine is measured at least and at most so many times, and
# until so many seconds have passed.
_LEAST_ROUNDS = 3
_MOST_ROUNDS = 12
_TRIAL_SECONDS = 2.0
# The most images in a call of the trial.
_TRIAL_IMAGES = 8


def engine(model: IsotropicMlp, name: str = "auto") -> EngineFn:
    """Put a model behind one call.

    The model is set to evaluation mode. Weights that change later may or may not be
    seen.

    Args:
        model: The network.
        name: "torch" (`packed` on the CPU in fp32; on a GPU what
            `kernels.for_inference` finds the fastest, in CUDA graphs), "plain",
            "onnxruntime" or "openvino" (both on the CPU in fp32). "auto" is the plain
            module for the first seconds, then the `fastest` here, which may be another
            one for single images than for several.

    Returns:
        The call.

    Raises:
        UserError: The engine is not known or not installed, cannot run this model,
            fails on this machine, or gives other answers than the module.
    """
    if name == "auto":
        return AutoEngine(model)
    if name not in ENGINES:
        raise unknown("engine", name, ["auto", *ENGINES])
    if reason := why_not(model, name):
        raise UserError(
            f"the engine {name!r} cannot run this model: {reason}; use engine='torch' "
            "or 'auto'"
        )
    try:
        run = ENGINES[name](model.eval())
        difference, scale = disagreement(run, model)
    except RuntimeError as error:
        # openvino has no LayerNorm for processors with SSE4.1 only, and says so when
        # it computes. Errors of torch itself are passed on as they are.
        if name in ("torch", "plain"):
            raise
        last_line = str(error).strip().rpartition("\n")[2][:200]
        raise UserError(
            f"the engine {name!r} fails on this machine: {last_line}; use engine='auto'"
        ) from error
    in_fp32 = model.stem.proj.weight.dtype == torch.float32
    # "not <=" and not ">": a NaN must not pass.
    if in_fp32 and not difference <= TOLERANCE * scale:
        raise UserError(
            f"the engine {name!r} differs from torch by {difference:.1e} in the "
            "logits; use engine='auto'"
        )
    return run


def fastest(model: IsotropicMlp, images: Tensor) -> tuple[str, EngineFn]:
    """Find the engine that answers these images soonest on this machine, by trying.

    Which one that is differs between processors, networks and batches. Engines that
    cannot run the model are left out.

    Args:
        model: The network; it is set to evaluation mode.
        images: A batch as it will come.

    Returns:
        The name of the engine, and its call.
    """
    runs: dict[str, EngineFn] = {}
    for name in ENGINES:
        # "torch" is the plain module where it can do no better.
        if name == "plain":
            continue
        with contextlib.suppress(UserError):
            runs[name] = engine(model, name)
    if not runs:
        return "torch", plain(model)
    if len(runs) == 1:
        return next(iter(runs.items()))
    best = _least_median(runs, images[:_TRIAL_IMAGES])
    return best, runs[best]


def _least_median(runs: dict[str, EngineFn], images: Tensor) -> str:
    """Return which call has the least median time, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    until = time.perf_counter() + _TRIAL_SECONDS
    for number in range(_MOST_ROUNDS):
        # In turns, so that what else the machine does slows all of them alike.
        for name, run in runs.items():
            # Not measured: threads of the engine before it may still spin, and its own
            # data are not in the caches.
            run(images)
            start = time.perf_counter()
            run(images)
            times[name].append(time.perf_counter() - start)
        if number + 1 >= _LEAST_ROUNDS and time.perf_counter() > until:
            break
    return min(times, key=lambda name: statistics.median(times[name]))


def why_not(model: IsotropicMlp, name: str) -> str | None:
    """Return why an engine cannot run the model, in words; None if it can.

    Packages are looked up and not imported.

    Args:
        model: The network.
        name: A key of `ENGINES`.
    """
    if name in ("torch", "plain"):
        return None
    if not isinstance(model.config, MixerConfig):
        return "its graphs are those of Mixers, and this network is of another family"
    packages = (name, "onnx")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        return f"{missing[0]} is not installed (pip install {' '.join(missing)})"
    weight = model.stem.proj.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        dtype = str(weight.dtype).removeprefix("torch.")
        return (
            f"it is for fp32 on the CPU, and the weights are {dtype} on "
            f"{weight.device.type}"
        )
    return None


@torch.inference_mode()
def disagreement(run: EngineFn, model: IsotropicMlp) -> tuple[float, float]:
    """Compare an engine with the plain module on two fixed images of noise.

    Args:
        run: The engine.
        model: The network, in evaluation mode.

    Returns:
        The largest difference of a logit, and the scale to measure it by: the largest
        logit, at least 1.
    """
    weight = model.stem.proj.weight
    config = model.config
    # The same noise on every machine: it is drawn on the CPU, from its own generator.
    generator = torch.Generator().manual_seed(0)
    size = (2, config.in_channels, *config.image_size)
    noise = torch.randn(*size, generator=generator)
    images = noise.to(weight.device, weight.dtype)
    expected = model(images).float()
    difference = (run(images) - expected).abs().max().item()
    scale = max(1.0, expected.abs().max().item())
    return difference, scale


class AutoEngine:
    """Run the plain module until a faster engine is worth its preparation.

    Args:
        model: The network; it is set to evaluation mode.

    Attributes:
        spent: Seconds that the plain module has computed.
        runs: The engine that was chosen for several images (True), and for one (False).
    """

    def __init__(self, model: IsotropicMlp) -> None:
        self.model = model.eval()
        self.plain = plain(model)
        self.spent = 0.0
        self.runs: dict[bool, EngineFn] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of images."""
        several = len(images) > 1
        if several not in self.runs and self.spent >= PATIENCE and len(images):
            _, self.runs[several] = fastest(self.model, images)
        if several in self.runs:
            return self.runs[several](images)
        start = time.perf_counter()
        answer = self.plain(images)
        if images.is_cuda:
            # A GPU has only been told to compute when the call returns.
            torch.cuda.synchronize(images.device)
        self.spent += time.perf_counter() - start
        return answer


def plain(model: nn.Module) -> EngineFn:
    """Return the module itself as an engine, without gradients.

    Args:
        model: The network.
    """

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return model(images).float()

    return run


def _torch(model: IsotropicMlp) -> EngineFn:
    """Return the fastest way to run a network with torch alone."""
    if model.stem.proj.weight.device.type == "cuda":
        from .. import kernels

        chosen, _ = kernels.for_inference(model)
        return graphed(plain(chosen))
    return packed(model) if can_pack(model) else plain(model)


def _onnxruntime(model: IsotropicMlp) -> EngineFn:
    return run_onnxruntime(_exact_graph(model))


def _openvino(model: IsotropicMlp) -> EngineFn:
    return run_openvino(_exact_graph(model))


ENGINES: dict[str, Callable[[IsotropicMlp], EngineFn]] = {
    "torch": _torch,
    "plain": plain,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _exact_graph(model: IsotropicMlp) -> bytes:
    """Return a Mixer as the bytes of an ONNX graph in fp32."""
    config = need_mixer(model.config, "onnx_graph")
    return onnx_graph(config, model.state_dict()).SerializeToString()


def run_onnxruntime(graph: bytes) -> EngineFn:
    """Run an ONNX graph in onnxruntime, with as many threads as torch has.

    Args:
        graph: A graph of one input and one output.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"]
    )
    input_name = session.get_inputs()[0].name
    width = session.get_outputs()[0].shape[1]

    def run(images: Tensor) -> Tensor:
        # onnxruntime's MatMul refuses a batch without images.
        if not len(images):
            return torch.empty(0, width)
        (logits,) = session.run(None, {input_name: images.numpy()})
        return torch.from_numpy(logits)

    return run


def run_openvino(graph: bytes, precision: Literal["f32", "bf16"] = "f32") -> EngineFn:
    """Run an ONNX graph in openvino, with as many threads as torch has.

    Args:
        graph: A graph of one input and one output.
        precision: What it computes in. It must be said: by itself openvino computes in
            bf16 where the processor can.
    """
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", hints)
    request = compiled.create_infer_request()

    def run(images: Tensor) -> Tensor:
        # share_inputs saves a copy of the images; answers are copied, or the next call
        # would overwrite them.
        logits = request.infer({0: images.numpy()}, share_inputs=True)[0]
        return torch.from_numpy(logits)

    return run


def int8(model: IsotropicMlp) -> EngineFn:
    """Run a Mixer in int8 with onnxruntime on the CPU; the answers are not exact.

    Weights have a scale for each output channel, activations one for each batch.

    Args:
        model: A Mixer in evaluation mode.

    Returns:
        The call.

    Raises:
        UserError: The network is not a Mixer.
    """
    config = need_mixer(model.config, "int8")
    graph = onnx_graph(config, model.state_dict(), token_mixing="transposed")
    return run_onnxruntime(quantised(graph).SerializeToString())
