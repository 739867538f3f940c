"""A Mixer as an ONNX graph, written straight from its configuration and tensors: few
kinds of node, no tracing.

Axes as in `models.mixer`. Every operator is of the standard's own domain, by default in
version 20, where Gelu came (onnxruntime 1.17, openvino 2024); LayerNormalization came
in 17, and is written out before. The batch is free.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from ..models.mixer import MixerConfig

if TYPE_CHECKING:
    from onnx import ModelProto

OPSETS = range(13, 21)
TokenForm = Literal["left", "transposed"]


def onnx_graph(
    config: MixerConfig,
    tensors: Mapping[str, Tensor],
    *,
    token_mixing: TokenForm = "left",
    opset: int = OPSETS[-1],
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
) -> ModelProto:
    """The network in evaluation mode: `image` (B, in_channels, H, W) -> `logits` (B,
    K), or `pre_logits` (B, C).

    tensors: the state dict of the model; stored as float32.
    token_mixing: "left" is W1 @ x, which moves no memory; "transposed" is x^T @ W1^T,
        with the weights as right factors, which is all that quantisation takes.
    opset: the version of the standard, of `OPSETS`.
    normalize: mean and std per channel of values in [0, 1]: then `image` is uint8 (B,
        H, W, in_channels) in 0-255.
    Needs the package `onnx`. A message holds at most 2 GiB, which H/14 does not fill.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []
    gelu = {"erf": "none", "tanh": "tanh"}[config.gelu]

    def op(name: str, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node; its output has its name."""
        nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(name: str, value: np.ndarray[Any, Any] | list[int]) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def array(name: str) -> np.ndarray[Any, Any]:
        return tensors[name].detach().float().cpu().numpy()

    def parts(name: str) -> tuple[str, str]:
        return constant(f"{name}.weight", array(f"{name}.weight")), constant(
            f"{name}.bias", array(f"{name}.bias")
        )

    def number(name: str, value: float) -> str:
        return constant(name, np.array(value, np.float32))

    def mean(name: str, x: str, axis: int, keepdims: int) -> str:
        if opset < 18:
            return op(name, "ReduceMean", x, axes=[axis], keepdims=keepdims)
        return op(
            name, "ReduceMean", x, constant(f"{name}.axes", [axis]), keepdims=keepdims
        )

    def norm(x: str, name: str) -> str:
        if opset >= 17:
            return op(
                name,
                "LayerNormalization",
                x,
                *parts(name),
                axis=-1,
                epsilon=config.norm_eps,
            )
        weight, bias = parts(name)
        centred = op(f"{name}.centred", "Sub", x, mean(f"{name}.mean", x, -1, 1))
        square = op(f"{name}.square", "Pow", centred, number(f"{name}.two", 2))
        above = op(
            f"{name}.above",
            "Add",
            mean(f"{name}.var", square, -1, 1),
            number(f"{name}.eps", config.norm_eps),
        )
        scaled = op(f"{name}.scaled", "Div", centred, op(f"{name}.std", "Sqrt", above))
        return op(name, "Add", op(f"{name}.product", "Mul", scaled, weight), bias)

    def activation(x: str, name: str) -> str:
        if opset >= 20:
            return op(name, "Gelu", x, approximate=gelu)
        if config.gelu == "erf":
            bent = op(
                f"{name}.erf",
                "Erf",
                op(f"{name}.in", "Div", x, number(f"{name}.root", math.sqrt(2))),
            )
        else:
            cube = op(f"{name}.cube", "Pow", x, number(f"{name}.three", 3))
            small = op(f"{name}.small", "Mul", cube, number(f"{name}.part", 0.044715))
            sum_ = op(f"{name}.sum", "Add", x, small)
            scaled = op(
                f"{name}.in",
                "Mul",
                sum_,
                number(f"{name}.root", math.sqrt(2 / math.pi)),
            )
            bent = op(f"{name}.tanh", "Tanh", scaled)
        gate = op(f"{name}.gate", "Add", bent, number(f"{name}.one", 1))
        return op(
            name,
            "Mul",
            op(f"{name}.half", "Mul", x, number(f"{name}.factor", 0.5)),
            gate,
        )

    def linear(x: str, name: str, left: bool) -> str:
        weight = array(f"{name}.weight")
        bias = array(f"{name}.bias")
        w = constant(f"{name}.weight", weight if left else weight.T)
        product = op(f"{name}.product", "MatMul", *((w, x) if left else (x, w)))
        return op(
            name,
            "Add",
            product,
            constant(f"{name}.bias", bias[:, None] if left else bias),
        )

    def mlp(x: str, name: str, left: bool = False) -> str:
        hidden = activation(linear(x, f"{name}.fc1", left), f"{name}.act")
        return linear(hidden, f"{name}.fc2", left)

    def mix_tokens(x: str, name: str) -> str:
        if token_mixing == "left":
            return mlp(x, name, left=True)
        x_BCS = op(f"{name}.in", "Transpose", x, perm=[0, 2, 1])
        return op(f"{name}.out", "Transpose", mlp(x_BCS, name), perm=[0, 2, 1])

    side = [config.patch_size] * 2
    x = "image"
    given_type = TensorProto.FLOAT
    given_size = (config.in_channels, *config.image_size)
    if normalize is not None:
        given_type = TensorProto.UINT8
        given_size = (*config.image_size, config.in_channels)
        x = op(
            "image.unit",
            "Div",
            op("image.float", "Cast", x, to=TensorProto.FLOAT),
            number("image.white", 255),
        )
        for kind, values in zip(("Sub", "Div"), normalize, strict=True):
            x = op(
                f"image.{kind}",
                kind,
                x,
                constant(f"image.{kind}.by", np.array(values, np.float32)),
            )
        x = op("image.first", "Transpose", x, perm=[0, 3, 1, 2])
    x = op("stem.proj", "Conv", x, *parts("stem.proj"), kernel_shape=side, strides=side)
    x = op(
        "stem.flat",
        "Reshape",
        x,
        constant("stem.shape", [0, config.hidden_dim, config.num_patches]),
    )  # 0: batch
    x = op("stem", "Transpose", x, perm=[0, 2, 1])
    for i in range(config.num_blocks):
        block = f"blocks.{i}"
        x = op(
            f"{block}.tokens",
            "Add",
            x,
            mix_tokens(norm(x, f"{block}.norm1"), f"{block}.mlp_tokens"),
        )
        x = op(block, "Add", x, mlp(norm(x, f"{block}.norm2"), f"{block}.mlp_channels"))
    x = mean("pre_logits", norm(x, "norm") if config.final_norm else x, 1, 0)
    if config.num_classes:
        x = op("logits", "Gemm", x, *parts("head"), transB=1)
    given = helper.make_tensor_value_info("image", given_type, ["B", *given_size])
    got = helper.make_tensor_value_info(
        x, TensorProto.FLOAT, ["B", config.num_classes or config.hidden_dim]
    )
    graph = helper.make_graph(nodes, "mlp_mixer", [given], [got], constants)
    standard = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph,
        opset_imports=standard,
        ir_version=helper.find_min_ir_version_for(standard),
    )


def quantised(
    graph: ModelProto, calibration: np.ndarray[Any, Any] | None = None
) -> ModelProto:
    """The graph, in the "transposed" form, with int8 matrix products and weights
    quantised per output channel.

    calibration: images as the graph takes them, from which the ranges of activations
        are fixed; without them each batch finds its own, which was more exact and
        faster in onnxruntime, but is slow in openvino.
    Needs the package `onnxruntime`.
    """
    import onnx
    from onnxruntime.quantization import (
        QuantType,
        quant_utils,
        quantize_dynamic,
        quantize_static,
    )

    quant_utils.add_pre_process_metadata(
        graph
    )  # else it asks for a pass that does nothing here
    info = Path("/proc/cpuinfo")
    saturates = not (
        info.is_file() and "vnni" in info.read_text()
    )  # in sums of pairs, unless weights have 7 bits
    how: dict[str, Any] = {
        "per_channel": True,
        "reduce_range": saturates,
        "weight_type": QuantType.QInt8,
    }
    how["op_types_to_quantize"] = ["MatMul"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        if calibration is None:
            quantize_dynamic(graph, out, **how)
        else:
            waiting = iter(np.array_split(calibration, -(-len(calibration) // 8)))
            reader = SimpleNamespace(
                get_next=lambda: next(({"image": batch} for batch in waiting), None)
            )
            quantize_static(graph, out, reader, activation_type=QuantType.QUInt8, **how)
        return onnx.load(out)
