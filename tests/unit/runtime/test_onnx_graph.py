"""The same logits from every version of the standard, each legal in its version."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mlp_mixer import MixerConfig, MlpMixer, Preprocess
from mlp_mixer.runtime.engines import run_onnxruntime
from mlp_mixer.runtime.onnx_graph import OPSETS, onnx_graph, quantised

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CONFIG = MixerConfig(
    4, 2, 24, 10, 40, image_size=(8, 12), num_classes=5, gelu="erf", norm_eps=1e-2
)
RECORD = Preprocess((8, 12), mean=(0.1, 0.4, 0.7), std=(0.2, 0.5, 0.9))


def trained(config: MixerConfig) -> MlpMixer:
    """No tensor is zero or symmetric."""
    model = MlpMixer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.4)
    return model.eval()


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("gelu", ["erf", "tanh"])
@torch.inference_mode()
def test_every_opset_gives_the_same_logits(opset: int, gelu: Any) -> None:
    model = trained(dataclasses.replace(CONFIG, gelu=gelu))
    pixels = torch.randint(0, 256, (3, 8, 12, 3), dtype=torch.uint8)
    x = RECORD.normalize(pixels.permute(0, 3, 1, 2))
    expected = model(x)
    assert expected.std() > 0.05
    for given, normalize in ((x, None), (pixels, (RECORD.mean, RECORD.std))):
        graph = onnx_graph(
            model.config, model.state_dict(), opset=opset, normalize=normalize
        )
        onnx.checker.check_model(graph, full_check=True)
        assert graph.opset_import[0].version == opset
        run = run_onnxruntime(graph.SerializeToString())
        for batch in (3, 1):
            logits = run(given[:batch].contiguous())
            # Up to rounding: another form of GELU would differ by 2e-4.
            torch.testing.assert_close(logits, expected[:batch], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_products_are_int8_and_near() -> None:
    """With 8 bits logits move by about a hundredth of their spread.

    Without one of the scales they would move by far more.
    """
    model = trained(CONFIG)
    x = torch.randn(64, 3, 8, 12)
    expected = model(x)
    graph = onnx_graph(CONFIG, model.state_dict(), token_mixing="transposed")
    quantised_graph = quantised(graph)
    in_int8 = set()
    for tensor in quantised_graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8:
            in_int8.add(tensor.name)
    for name in model.state_dict():
        if ".fc" in name and name.endswith("weight"):
            assert f"{name}_quantized" in in_int8
    answers = run_onnxruntime(quantised_graph.SerializeToString())(x)
    off = (answers - expected).square().mean().sqrt() / expected.std()
    assert 1e-4 < off < 0.05
