"""The folder of a model in a repository of NVIDIA's Triton Inference Server.

    mixer/config.pbtxt      what the model takes and gives, and how requests are joined
    mixer/labels.txt        the names of the classes, one a line
    mixer/1/model.onnx      its version 1
    mixer/mlp-mixer.json    how a picture becomes its input

The repository is the folder above. The name of the folder is that of the model on the
server: config.pbtxt states none, so that the folder may be renamed. KServe's Triton
runtime takes the same layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError

CONFIG = "config.pbtxt"
LABELS = "labels.txt"
MODEL = "1/model.onnx"
ABOUT = "mlp-mixer.json"

_MOST_IMAGES = 32
# Milliseconds of a Mixer on a GPU: waiting so long for others costs nobody much.
_MOST_WAIT_US = 2000

# What ONNX calls the types of numbers, and what Triton does.
_TYPES = {
    "BOOL": "TYPE_BOOL",
    "UINT8": "TYPE_UINT8",
    "INT8": "TYPE_INT8",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "FLOAT16": "TYPE_FP16",
    "BFLOAT16": "TYPE_BF16",
    "FLOAT": "TYPE_FP32",
    "DOUBLE": "TYPE_FP64",
}


def write_model(
    folder: Path, graph: Any, labels: Sequence[str], scores: str, about: str
) -> None:
    """Write the folder of a model.

    Args:
        folder: A new folder.
        graph: The ONNX model; all it takes and gives begins with the axis of the batch.
        labels: The names of the classes in the order of the logits; none if unknown.
        scores: What turns logits into scores, "softmax" or "sigmoid".
        about: The JSON that says how a picture becomes the input.

    Raises:
        UserError: A class has a name of several lines.
    """
    for label in labels:
        if len(label.splitlines()) > 1:
            raise UserError(
                f"the class {label!r} has a name of several lines, and Triton reads one "
                "a line: give other names by --labels"
            )
    (folder / MODEL).parent.mkdir(parents=True)
    (folder / MODEL).write_bytes(graph.SerializeToString())
    (folder / ABOUT).write_text(about + "\n", encoding="utf-8")
    if labels:
        lines = "".join(f"{label}\n" for label in labels)
        (folder / LABELS).write_text(lines, encoding="utf-8", newline="\n")
    (folder / CONFIG).write_text(config_text(graph, len(labels), scores), "utf-8")


def config_text(graph: Any, labels: int, scores: str) -> str:
    """Return the text of a config.pbtxt, read from the graph itself.

    Args:
        graph: The ONNX model.
        labels: How many names of classes there are; an output of so many numbers gets
            them.
        scores: What turns logits into scores.
    """
    parts = ['backend: "onnxruntime"', f"max_batch_size: {_MOST_IMAGES}"]
    for value in graph.graph.input:
        parts.append(_tensor("input", value, _image_format(value)))
    for value in graph.graph.output:
        named = labels and math.prod(_dims(value)) == labels
        extra = f"label_filename: {quoted(LABELS)}" if named else ""
        parts.append(_tensor("output", value, extra))
    parts += [
        f"dynamic_batching {{\n  max_queue_delay_microseconds: {_MOST_WAIT_US}\n}}",
        "instance_group [\n  {\n    count: 1\n    kind: KIND_AUTO\n  }\n]",
        _parameter("scores", scores),
    ]
    return "\n".join(parts) + "\n"


def _tensor(kind: str, value: Any, extra: str) -> str:
    lines = [
        f"name: {quoted(value.name)}",
        f"data_type: {_type(value)}",
        f"dims: [ {', '.join(map(str, _dims(value)))} ]",
    ]
    if extra:
        lines.append(extra)
    inside = "\n".join(f"    {line}" for line in lines)
    return f"{kind} [\n  {{\n{inside}\n  }}\n]"


def _type(value: Any) -> str:
    import onnx

    return _TYPES[onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)]


def _dims(value: Any) -> list[int]:
    """Return the axes behind that of the batch, which Triton adds; -1 is any length."""
    _, *axes = value.type.tensor_type.shape.dim
    return [axis.dim_value if axis.HasField("dim_value") else -1 for axis in axes]


def _image_format(value: Any) -> str:
    """Say which axis holds the channels: the last one of bytes, the first of floats."""
    return f"format: {'FORMAT_NHWC' if _type(value) == 'TYPE_UINT8' else 'FORMAT_NCHW'}"


def _parameter(key: str, value: str) -> str:
    return (
        f"parameters {{\n  key: {quoted(key)}\n"
        f"  value {{\n    string_value: {quoted(value)}\n  }}\n}}"
    )


def quoted(text: str) -> str:
    """Return text as a string of protobuf's text format.

    Args:
        text: Any text.
    """
    letters = []
    for byte in text.encode("utf-8", "backslashreplace"):
        plain = 32 <= byte < 127 and byte not in b"\"\\'"
        letters.append(chr(byte) if plain else f"\\{byte:03o}")
    return f'"{"".join(letters)}"'
