"""The repository of a model for Triton: read by protobuf with Triton's own descriptor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)

from mlp_mixer import MixerConfig, Preprocess, UserError, save
from mlp_mixer.exporting import export, triton
from mlp_mixer.models import build_network

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LABELS = ["cat", 'the "dog"', "Vögel\\", "tab\there"]
CONFIG = MixerConfig(4, 1, 8, 6, 12, image_size=(8, 12), num_classes=4, gelu="erf")
RECORD = Preprocess((8, 12), mean=(0.1, 0.4, 0.7), std=(0.2, 0.5, 0.9))
_PROTO = Path(__file__).parents[2] / "data" / "triton" / "model_config.binpb"


def parsed(text: str) -> Any:
    """The configuration as Triton understands it; an unknown word is an error."""
    file = descriptor_pb2.FileDescriptorProto.FromString(_PROTO.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(
        pool.FindMessageTypeByName("inference.ModelConfig")
    )
    return text_format.Parse(text, kind(), descriptor_pool=pool)


def named(message: Any, field: str) -> str:
    """The name of an enumeration's value."""
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    return str(kind.values_by_number[getattr(message, field)].name)


def saved(path: Path, labels: list[str] | None = LABELS, classes: int = 4) -> Path:
    torch.manual_seed(0)
    model = build_network(
        MixerConfig(4, 1, 8, 6, 12, image_size=(8, 12), num_classes=classes, gelu="erf")
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return save(path, model, preprocess=RECORD, labels=labels)


@pytest.mark.parametrize("where", ["inside", "beside"])
@pytest.mark.parametrize("int8", [False, True])
def test_the_repository_says_what_the_graph_does(
    tmp_path: Path, where: str, int8: bool
) -> None:
    source = saved(tmp_path / "m.safetensors")
    out = tmp_path / "repository" / "mixer"
    # Without a word the graph takes bytes, as ONNX files do.
    chosen = None if where == "inside" else where
    report = export(source, out, "triton", preprocess=chosen, int8=int8)
    assert report["rows"][1]["difference"] <= (1 if int8 else 1e-5)
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert files == ["1/model.onnx", "config.pbtxt", "labels.txt", "mlp-mixer.json"]

    config = parsed((out / "config.pbtxt").read_text())
    assert config.backend == "onnxruntime"
    # The folder's name is the model's.
    assert config.name == ""
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    (group,) = config.instance_group
    assert (named(group, "kind"), group.count) == ("KIND_AUTO", 1)
    assert config.parameters["scores"].string_value == "softmax"

    (given,) = config.input
    (got,) = config.output
    assert (given.name, got.name) == ("image", "logits")
    bytes_or_floats = {
        "inside": ("TYPE_UINT8", "FORMAT_NHWC", [8, 12, 3]),
        "beside": ("TYPE_FP32", "FORMAT_NCHW", [3, 8, 12]),
    }
    kind, image_format, dims = bytes_or_floats[where]
    assert named(given, "data_type") == kind
    assert named(given, "format") == image_format
    assert list(given.dims) == dims
    assert named(got, "data_type") == "TYPE_FP32"
    assert list(got.dims) == [4]

    # What Triton does with these: a batch of up to 32, and the name of a class.
    names = (out / got.label_filename).read_text("utf-8").splitlines()
    assert names == LABELS
    session = onnxruntime.InferenceSession(out / "1/model.onnx")
    dtype = np.uint8 if where == "inside" else np.float32
    for batch in (1, 2, config.max_batch_size):
        x = np.zeros((batch, *given.dims), dtype)
        (answer,) = session.run([got.name], {given.name: x})
        assert answer.shape == (batch, *got.dims)
        assert answer.dtype == np.float32
    about = json.loads((out / "mlp-mixer.json").read_text())
    assert about["labels"] == LABELS
    assert Preprocess(**about["preprocess"]) == RECORD


def test_a_network_without_names_or_without_a_head(tmp_path: Path) -> None:
    for classes, name, dims in ((4, "logits", [4]), (0, "pre_logits", [8])):
        out = tmp_path / str(classes)
        source = saved(tmp_path / f"{classes}.safetensors", None, classes)
        export(source, out, "triton")
        (got,) = parsed((out / "config.pbtxt").read_text()).output
        assert (got.name, list(got.dims)) == (name, dims)
        assert not got.label_filename
        assert not (out / "labels.txt").exists()


def test_a_graph_of_several_outputs() -> None:
    """Only what has a number for each class gets the names of the classes."""
    helper = onnx.helper
    kinds = onnx.TensorProto
    given = [helper.make_tensor_value_info("image", kinds.FLOAT, ["B", 1, 2, 2])]
    got = [
        helper.make_tensor_value_info("logits", kinds.FLOAT, ["B", 4]),
        helper.make_tensor_value_info("features", kinds.FLOAT16, ["B", "T", 8]),
        helper.make_tensor_value_info("best", kinds.INT64, ["B", 1]),
    ]
    graph = helper.make_model(helper.make_graph([], "g", given, got))
    config = parsed(triton.config_text(graph, 4, "sigmoid"))
    found = [
        (one.name, named(one, "data_type"), list(one.dims), one.label_filename)
        for one in config.output
    ]
    assert found == [
        ("logits", "TYPE_FP32", [4], "labels.txt"),
        ("features", "TYPE_FP16", [-1, 8], ""),
        ("best", "TYPE_INT64", [1], ""),
    ]
    assert config.parameters["scores"].string_value == "sigmoid"


@pytest.mark.parametrize(
    "text", ["", 'a "b" \\ c', "Vögel", "a\n\tb\0", "'", "\U0001f600"]
)
def test_text_is_quoted_as_protobuf_reads_it(text: str) -> None:
    assert parsed(f"name: {triton.quoted(text)}").name == text


def test_what_triton_does_not_know_is_seen(tmp_path: Path) -> None:
    """The parser of these tests is strict."""
    for text in ("max_batch: 3", 'input [{ name: "a" dim: [1] }]', "backend: onnx"):
        with pytest.raises(text_format.ParseError):
            parsed(text)


def test_it_can_be_renamed_and_written_again(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.safetensors")
    out = tmp_path / "mixer"
    export(source, out, "triton")
    with pytest.raises(UserError, match="exists; choose another name, or use --overwr"):
        export(source, out, "triton")
    export(source, out, "triton", overwrite=True, opset=17)
    assert onnx.load(out / "1/model.onnx").opset_import[0].version == 17
    shutil.move(out, tmp_path / "other name")


def test_names_that_triton_cannot_read(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.safetensors", ["a", "b\nc", "d", "e"])
    with pytest.raises(UserError, match=r"'b\\nc' has a name of several lines"):
        export(source, tmp_path / "mixer", "triton")
    assert not (tmp_path / "mixer").exists()
