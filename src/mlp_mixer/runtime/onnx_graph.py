"""A Mixer as an ONNX graph, written straight from its configuration and tensors: nine kinds of node, no tracing.

Axes as in `models.mixer`. Every operator is of the standard's own domain in version 20, where Gelu came (onnxruntime
1.17, openvino 2024); the batch is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from ..models.mixer import MixerConfig

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET, IR_VERSION = 20, 9
TokenForm = Literal["left", "transposed"]


def onnx_graph(config: MixerConfig, tensors: Mapping[str, Tensor], *, token_mixing: TokenForm = "left") -> ModelProto:
    """The network in evaluation mode: `image` (B, in_channels, H, W) -> `logits` (B, K), or `pre_logits` (B, C).

    tensors: the state dict of the model; stored as float32.
    token_mixing: "left" is W1 @ x, which moves no memory; "transposed" is x^T @ W1^T, with the weights as right
        factors, which is all that dynamic quantisation takes.
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
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def array(name: str) -> np.ndarray[Any, Any]:
        return tensors[name].detach().float().cpu().numpy()

    def parts(name: str) -> tuple[str, str]:
        return constant(f"{name}.weight", array(f"{name}.weight")), constant(f"{name}.bias", array(f"{name}.bias"))

    def norm(x: str, name: str) -> str:
        return op(name, "LayerNormalization", x, *parts(name), axis=-1, epsilon=config.norm_eps)

    def linear(x: str, name: str, left: bool) -> str:
        weight, bias = array(f"{name}.weight"), array(f"{name}.bias")
        w = constant(f"{name}.weight", weight if left else weight.T)
        product = op(f"{name}.product", "MatMul", *((w, x) if left else (x, w)))
        return op(name, "Add", product, constant(f"{name}.bias", bias[:, None] if left else bias))

    def mlp(x: str, name: str, left: bool = False) -> str:
        hidden = op(f"{name}.act", "Gelu", linear(x, f"{name}.fc1", left), approximate=gelu)
        return linear(hidden, f"{name}.fc2", left)

    def mix_tokens(x: str, name: str) -> str:
        if token_mixing == "left":
            return mlp(x, name, left=True)
        x_BCS = op(f"{name}.in", "Transpose", x, perm=[0, 2, 1])
        return op(f"{name}.out", "Transpose", mlp(x_BCS, name), perm=[0, 2, 1])

    side = [config.patch_size] * 2
    x = op("stem.proj", "Conv", "image", *parts("stem.proj"), kernel_shape=side, strides=side)
    x = op("stem.flat", "Reshape", x, constant("stem.shape", [0, config.hidden_dim, config.num_patches]))  # 0: batch
    x = op("stem", "Transpose", x, perm=[0, 2, 1])
    for i in range(config.num_blocks):
        block = f"blocks.{i}"
        x = op(f"{block}.tokens", "Add", x, mix_tokens(norm(x, f"{block}.norm1"), f"{block}.mlp_tokens"))
        x = op(block, "Add", x, mlp(norm(x, f"{block}.norm2"), f"{block}.mlp_channels"))
    x = op("pre_logits", "ReduceMean", norm(x, "norm") if config.final_norm else x, constant("axes", [1]), keepdims=0)
    if config.num_classes:
        x = op("logits", "Gemm", x, *parts("head"), transB=1)
    shapes = (("image", config.in_channels, *config.image_size), (x, config.num_classes or config.hidden_dim))
    given, got = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", *size]) for n, *size in shapes)
    graph = helper.make_graph(nodes, "mlp_mixer", [given], [got], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
