"""Write a Mixer as an ONNX graph, straight from its configuration and tensors.

Nothing is traced, so the graph has few kinds of node, each under the name of the part
that it computes, and any number of images may come at once.

Every operator is of the standard's own domain, by default in version 20, the first
with Gelu (onnxruntime 1.17, openvino 2024). LayerNormalization came in version 17. For
older versions both are written out in simpler operators.

Axes as in `models.mixer`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from ..models.mixer import MixerConfig

if TYPE_CHECKING:
    from onnx import ModelProto

OPSETS = range(13, 21)
TokenForm = Literal["left", "transposed"]
Array = np.ndarray[Any, Any]


def onnx_graph(
    config: MixerConfig,
    tensors: Mapping[str, Tensor],
    *,
    token_mixing: TokenForm = "left",
    opset: int = OPSETS[-1],
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
) -> ModelProto:
    """Return the network in evaluation mode as a graph.

    It maps `image` (B, in_channels, H, W) to `logits` (B, K), or to `pre_logits` (B, C)
    without a head. Needs the package `onnx`. A message of protobuf holds at most 2 GiB,
    which H/14 does not fill.

    Args:
        config: The architecture.
        tensors: The state dict of the model; stored as float32.
        token_mixing: "left" is W1 @ x, which moves no memory. "transposed" is
            x^T @ W1^T, with the weights as right factors: quantisation takes no others.
        opset: The version of the standard, one of `OPSETS`.
        normalize: Mean and standard deviation of each channel, of values in [0, 1].
            With it `image` is uint8 (B, H, W, in_channels) in 0-255.
    """
    from onnx import TensorProto, helper

    graph = _MixerGraph(config, tensors, token_mixing, opset)
    image_type = TensorProto.FLOAT
    image_size = (config.in_channels, *config.image_size)
    x = "image"
    if normalize is not None:
        image_type = TensorProto.UINT8
        image_size = (*config.image_size, config.in_channels)
        x = graph.normalised(x, *normalize)
    x = graph.stem(x)
    for i in range(config.num_blocks):
        x = graph.block(x, f"blocks.{i}")
    if config.final_norm:
        x = graph.norm(x, "norm")
    x = graph.mean("pre_logits", x, 1, 0)
    if config.num_classes:
        x = graph.op("logits", "Gemm", x, *graph.parameters("head"), transB=1)
    width = config.num_classes or config.hidden_dim
    # "B" is a name in place of a number: the batch is free.
    given = helper.make_tensor_value_info("image", image_type, ["B", *image_size])
    got = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["B", width])
    return graph.finished(given, got)


class _Graph:
    """Collect the nodes and the constants of an ONNX graph.

    Args:
        opset: The version of the standard.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, name: str, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, whose output has its name, and return that name."""
        from onnx import helper

        node = helper.make_node(kind, inputs, [name], name, **attributes)
        self.nodes.append(node)
        return name

    def constant(self, name: str, value: Array | list[int]) -> str:
        """Add a tensor and return its name."""
        from onnx import numpy_helper

        # C order: ONNX stores a transposed view as it is told to, by its rows.
        array = np.asarray(value, order="C")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def number(self, name: str, value: float) -> str:
        """Add a float32 and return its name."""
        return self.constant(name, np.array(value, np.float32))

    def mean(self, name: str, x: str, axis: int, keepdims: int) -> str:
        """Add a mean over one axis."""
        if self.opset < 18:
            return self.op(name, "ReduceMean", x, axes=[axis], keepdims=keepdims)
        # From version 18 on the axes are an input.
        axes = self.constant(f"{name}.axes", [axis])
        return self.op(name, "ReduceMean", x, axes, keepdims=keepdims)

    def finished(self, given: Any, got: Any) -> ModelProto:
        """Return the graph with its input and its output."""
        from onnx import helper

        ends = ([given], [got])
        graph = helper.make_graph(self.nodes, "mlp_mixer", *ends, self.constants)
        standard = [helper.make_opsetid("", self.opset)]
        # The oldest format of the file that has these operators, for old runtimes.
        version = helper.find_min_ir_version_for(standard)
        return helper.make_model(graph, opset_imports=standard, ir_version=version)


class _MixerGraph(_Graph):
    """Add the parts of a Mixer to a graph, each under its name in the state dict.

    Args:
        config: The architecture.
        tensors: The state dict.
        token_mixing: As for `onnx_graph`.
        opset: The version of the standard.
    """

    def __init__(
        self,
        config: MixerConfig,
        tensors: Mapping[str, Tensor],
        token_mixing: TokenForm,
        opset: int,
    ) -> None:
        super().__init__(opset)
        self.config = config
        self.tensors = tensors
        self.token_mixing = token_mixing

    def array(self, name: str) -> Array:
        """Return a tensor of the state dict in float32."""
        return self.tensors[name].detach().float().cpu().numpy()

    def parameters(self, name: str) -> tuple[str, str]:
        """Add the weight and the bias of a layer as they are."""
        weight = self.constant(f"{name}.weight", self.array(f"{name}.weight"))
        bias = self.constant(f"{name}.bias", self.array(f"{name}.bias"))
        return weight, bias

    def normalised(self, x: str, mean: Sequence[float], std: Sequence[float]) -> str:
        """Turn uint8 (B, H, W, C) into normalised floats (B, C, H, W)."""
        from onnx import TensorProto

        x = self.op("image.float", "Cast", x, to=TensorProto.FLOAT)
        x = self.op("image.unit", "Div", x, self.number("image.white", 255))
        # The channels are still last, so that one number for each broadcasts.
        for kind, values in (("Sub", mean), ("Div", std)):
            by = self.constant(f"image.{kind}.by", np.array(values, np.float32))
            x = self.op(f"image.{kind}", kind, x, by)
        return self.op("image.first", "Transpose", x, perm=[0, 3, 1, 2])

    def stem(self, x: str) -> str:
        """Cut images into patches and embed them: (B, S, C)."""
        side = [self.config.patch_size] * 2
        parameters = self.parameters("stem.proj")
        x = self.op(
            "stem.proj", "Conv", x, *parameters, kernel_shape=side, strides=side
        )
        # 0 copies the size of that axis: the batch.
        size = [0, self.config.hidden_dim, self.config.num_patches]
        x = self.op("stem.flat", "Reshape", x, self.constant("stem.shape", size))
        return self.op("stem", "Transpose", x, perm=[0, 2, 1])

    def block(self, x: str, name: str) -> str:
        """Mix tokens, then channels, each with its skip connection."""
        mixed = self.mix_tokens(self.norm(x, f"{name}.norm1"), f"{name}.mlp_tokens")
        x = self.op(f"{name}.tokens", "Add", x, mixed)
        mixed = self.mlp(self.norm(x, f"{name}.norm2"), f"{name}.mlp_channels")
        return self.op(name, "Add", x, mixed)

    def mix_tokens(self, x: str, name: str) -> str:
        """Apply the token MLP, from the left or between two transpositions."""
        if self.token_mixing == "left":
            return self.mlp(x, name, left=True)
        x_BCS = self.op(f"{name}.in", "Transpose", x, perm=[0, 2, 1])
        mixed_BCS = self.mlp(x_BCS, name)
        return self.op(f"{name}.out", "Transpose", mixed_BCS, perm=[0, 2, 1])

    def mlp(self, x: str, name: str, left: bool = False) -> str:
        """Apply two dense layers with GELU between them."""
        hidden = self.linear(x, f"{name}.fc1", left)
        hidden = self.gelu(hidden, f"{name}.act")
        return self.linear(hidden, f"{name}.fc2", left)

    def linear(self, x: str, name: str, left: bool) -> str:
        """Multiply by a weight from the left, W x, or as usual, x W'."""
        weight = self.array(f"{name}.weight")
        bias = self.array(f"{name}.bias")
        if left:
            # Tokens are rows of x, so the bias has one number for each row.
            bias = bias[:, None]
            factors = (self.constant(f"{name}.weight", weight), x)
        else:
            factors = (x, self.constant(f"{name}.weight", weight.T))
        product = self.op(f"{name}.product", "MatMul", *factors)
        return self.op(name, "Add", product, self.constant(f"{name}.bias", bias))

    def norm(self, x: str, name: str) -> str:
        """Apply LayerNorm over the channels."""
        eps = self.config.norm_eps
        if self.opset >= 17:
            parameters = self.parameters(name)
            return self.op(
                name, "LayerNormalization", x, *parameters, axis=-1, epsilon=eps
            )
        weight, bias = self.parameters(name)
        mean = self.mean(f"{name}.mean", x, -1, 1)
        centred = self.op(f"{name}.centred", "Sub", x, mean)
        square = self.op(
            f"{name}.square", "Pow", centred, self.number(f"{name}.two", 2)
        )
        variance = self.mean(f"{name}.var", square, -1, 1)
        above = self.op(
            f"{name}.above", "Add", variance, self.number(f"{name}.eps", eps)
        )
        std = self.op(f"{name}.std", "Sqrt", above)
        scaled = self.op(f"{name}.scaled", "Div", centred, std)
        product = self.op(f"{name}.product", "Mul", scaled, weight)
        return self.op(name, "Add", product, bias)

    def gelu(self, x: str, name: str) -> str:
        """Apply the network's form of GELU."""
        if self.opset >= 20:
            approximate = {"erf": "none", "tanh": "tanh"}[self.config.gelu]
            return self.op(name, "Gelu", x, approximate=approximate)
        # Both forms are (x / 2) (1 + bent), where bent is an erf or a tanh.
        if self.config.gelu == "erf":
            root = self.number(f"{name}.root", math.sqrt(2))
            scaled = self.op(f"{name}.in", "Div", x, root)
            bent = self.op(f"{name}.erf", "Erf", scaled)
        else:
            bent = self._tanh_of_cubic(x, name)
        gate = self.op(f"{name}.gate", "Add", bent, self.number(f"{name}.one", 1))
        half = self.op(f"{name}.half", "Mul", x, self.number(f"{name}.factor", 0.5))
        return self.op(name, "Mul", half, gate)

    def _tanh_of_cubic(self, x: str, name: str) -> str:
        """Compute tanh(sqrt(2 / pi) (x + 0.044715 x^3))."""
        cube = self.op(f"{name}.cube", "Pow", x, self.number(f"{name}.three", 3))
        part = self.number(f"{name}.part", 0.044715)
        small = self.op(f"{name}.small", "Mul", cube, part)
        total = self.op(f"{name}.sum", "Add", x, small)
        root = self.number(f"{name}.root", math.sqrt(2 / math.pi))
        scaled = self.op(f"{name}.in", "Mul", total, root)
        return self.op(f"{name}.tanh", "Tanh", scaled)


def with_int8_weights(graph: ModelProto) -> ModelProto:
    """Return a graph whose matrix products take weights of 8 bits; activations stay.

    A weight (N, K) becomes whole numbers from -127 to 127 and a scale for each output
    channel, which DequantizeLinear multiplies.

    Args:
        graph: From `onnx_graph`, in the "transposed" form. It is changed.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    products = [node for node in graph.graph.node if node.op_type == "MatMul"]
    for place, product in enumerate(products):
        name = product.input[1]
        weight_KN = numpy_helper.to_array(constants[name])
        # A channel without weights keeps zeros, whatever its scale.
        scale_N = np.maximum(np.abs(weight_KN).max(0), np.float32(1e-30)) / 127
        whole_KN = np.rint(weight_KN / scale_N).astype(np.int8)
        names = [f"{name}.int8", f"{name}.scale"]
        constants[name].CopyFrom(numpy_helper.from_array(whole_KN, names[0]))
        graph.graph.initializer.append(numpy_helper.from_array(scale_N, names[1]))
        node = helper.make_node("DequantizeLinear", names, [name], name, axis=1)
        graph.graph.node.insert(place, node)
    return graph


def quantised(graph: ModelProto) -> ModelProto:
    """Return a graph with int8 matrix products for onnxruntime.

    Weights are quantised with a scale for each output channel; of activations each
    batch finds its own range, which was more exact and faster there than ranges from
    images. Needs the package `onnxruntime`.

    Args:
        graph: From `onnx_graph`, in the "transposed" form.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quant_utils, quantize_dynamic

    # Otherwise it asks for a pass of its own that does nothing to these graphs.
    quant_utils.add_pre_process_metadata(graph)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        quantize_dynamic(
            graph,
            out,
            per_channel=True,
            reduce_range=_int8_sums_saturate(),
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
        )
        return onnx.load(out)


def _int8_sums_saturate() -> bool:
    """Return whether this processor may lose sums of two int8 products.

    Without VNNI it adds pairs of them in 16 bits, which overflow unless weights have 7
    bits (onnxruntime's `reduce_range`).
    """
    info = Path("/proc/cpuinfo")
    return not (info.is_file() and "vnni" in info.read_text())
