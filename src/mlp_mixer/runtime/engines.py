"""The engines that run a Mixer behind one call.

Each is compared with the plain module before it may answer: a runtime that computes
another GELU, or in bf16 without being asked, is seen here and not in production.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..devices import LEAST_BF16_GAIN, bf16_gain
from ..errors import UserError
from ..models.families import need_mixer
from ..models.isotropic import IsotropicMlp
from ..models.mixer import MixerConfig
from . import on_cuda
from .on_cuda import OnCuda, products
from .onnx_graph import TokenForm, onnx_graph, quantised, with_int8_weights
from .packed import can_pack, packed

EngineFn = Callable[[Tensor], Tensor]
"""Images (B, in_channels, H, W) on the model's device -> logits (B, K) in float32.

The logits are on the same device.
"""

# The largest difference from the plain module in fp32, in units of the largest logit if
# that is above 1.
TOLERANCE = 1e-4

# Openvino's name for how many numbers of a token share a scale in int8.
INT8_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
# Such numbers, best first: small groups take longer and are hardly more exact.
_INT8_GROUPS = (256, 192, 128, 96, 64, 32)


def checked(model: IsotropicMlp, name: str) -> EngineFn:
    """Build an engine in the precision of the weights, and compare it with the module.

    Args:
        model: The network; it is set to evaluation mode.
        name: A key of `ENGINES`.

    Returns:
        The call.

    Raises:
        UserError: The engine is not installed, cannot run this model, fails on this
            machine, or gives other answers than the module.
    """
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
    expected = exact(model)(images)
    difference = (run(images) - expected).abs().max().item()
    scale = max(1.0, expected.abs().max().item())
    return difference, scale


def plain(model: nn.Module) -> EngineFn:
    """Return the module itself as an engine, without gradients.

    Args:
        model: The network.
    """

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return model(images).float()

    return run


def exact(model: IsotropicMlp) -> EngineFn:
    """Return the module itself as an engine, on a GPU too without TF32 anywhere.

    Args:
        model: The network.
    """
    run = plain(model)
    if not on_cuda.is_on_cuda(model):
        return run

    def without_tf32(images: Tensor) -> Tensor:
        with products("fp32"):
            return run(images)

    return without_tf32


def _torch(model: IsotropicMlp) -> EngineFn:
    """Return the fastest way to run a network with torch alone."""
    if on_cuda.is_on_cuda(model):
        return OnCuda(model)
    return packed(model) if can_pack(model) else plain(model)


def _onnxruntime(model: IsotropicMlp) -> EngineFn:
    return run_onnxruntime(_graph(model, "left"))


def _openvino(model: IsotropicMlp) -> EngineFn:
    return run_openvino(_graph(model, "left"))


ENGINES: dict[str, Callable[[IsotropicMlp], EngineFn]] = {
    "torch": _torch,
    "plain": exact,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _graph(model: IsotropicMlp, token_mixing: TokenForm) -> bytes:
    """Return a Mixer as the bytes of an ONNX graph in fp32."""
    config = need_mixer(model.config, "onnx_graph")
    tensors = model.state_dict()
    graph = onnx_graph(config, tensors, token_mixing=token_mixing)
    return graph.SerializeToString()


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


def run_openvino(
    graph: bytes, precision: Literal["f32", "bf16"] = "f32", *, group: int = 0
) -> EngineFn:
    """Run an ONNX graph in openvino, with as many threads as torch has.

    Args:
        graph: A graph of one input and one output.
        precision: What it computes in. It must be said: by itself openvino computes in
            bf16 where the processor can.
        group: Products with weights of 8 bits take activations of 8 bits too, with
            a scale for so many numbers of a token; 0 leaves them as they are.

    Raises:
        UserError: It ignores the hint for bf16, as it does where the processor lacks
            the instructions.
    """
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # By itself openvino takes groups of 32, slower and no more exact.
        INT8_GROUP: group,
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", hints)
    taken = compiled.get_property("INFERENCE_PRECISION_HINT")
    if precision == "bf16" and taken != openvino.Type.bf16:
        raise UserError("openvino does not compute in bf16 on this processor")
    request = compiled.create_infer_request()

    def run(images: Tensor) -> Tensor:
        # share_inputs saves a copy of the images; answers are copied, or the next call
        # would overwrite them.
        logits = request.infer({0: images.numpy()}, share_inputs=True)[0]
        return torch.from_numpy(logits)

    return run


def torch_bf16(model: IsotropicMlp) -> EngineFn:
    """Run a network in bf16 with torch: weights, tokens and products.

    Args:
        model: The network, in evaluation mode; its weights are copied.
    """
    if on_cuda.is_on_cuda(model):
        return OnCuda(model, "bf16")
    run = plain(copy.deepcopy(model).to(torch.bfloat16))
    return lambda images: run(images.to(torch.bfloat16))


def torch_tf32(model: IsotropicMlp) -> EngineFn:
    """Run a network on a GPU in float32 with products in TF32.

    Args:
        model: The network, in evaluation mode.
    """
    return OnCuda(model, "tf32")


def openvino_bf16(model: IsotropicMlp) -> EngineFn:
    """Run a Mixer in openvino with its hint for bf16.

    Args:
        model: A Mixer in evaluation mode.

    Raises:
        UserError: It computes in fp32 here, whatever the hint.
    """
    # Weights as right factors: in bf16 a tenth faster, in fp32 a little slower.
    return run_openvino(_graph(model, "transposed"), "bf16")


def openvino_int8(model: IsotropicMlp) -> EngineFn:
    """Run a Mixer in openvino with products in int8.

    Weights have a scale for each output channel. Activations get theirs as they come,
    one for each token and so many of its numbers: no images are needed to find ranges,
    and no answer depends on its neighbours in the batch. What lies between the products
    is bf16 where the processor multiplies in it, float32 elsewhere.

    Args:
        model: A Mixer in evaluation mode.
    """
    config = need_mixer(model.config, "int8")
    graph = onnx_graph(config, model.state_dict(), token_mixing="transposed")
    return run_openvino(
        with_int8_weights(graph).SerializeToString(),
        "bf16" if bf16_gain() >= LEAST_BF16_GAIN else "f32",
        group=int8_group(config),
    )


def int8_group(config: MixerConfig) -> int:
    """Return how many numbers of a token share a scale in openvino's int8.

    It leaves a product out whose sum is not made of whole groups. That of the patches
    seldom is; those of the three widths should be.

    Args:
        config: The architecture.
    """
    channels = (config.hidden_dim, config.channels_mlp_dim)
    for widths in ((*channels, config.tokens_mlp_dim), channels):
        for group in _INT8_GROUPS:
            if all(width % group == 0 for width in widths):
                return group
    return _INT8_GROUPS[-1]


def int8(model: IsotropicMlp) -> EngineFn:
    """Run a Mixer in int8 with onnxruntime on the CPU; the answers are not exact.

    Weights have a scale for each output channel, activations one for each batch, so
    that an answer depends a little on its neighbours.

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
