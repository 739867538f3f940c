"""int8 by openvino: weights of 8 bits, a scale for each token, neighbours without effect."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from mlp_mixer import MixerConfig, MlpMixer
from mlp_mixer.models import create_model
from mlp_mixer.runtime import onnx_graph
from mlp_mixer.runtime.engines import int8_group, openvino_int8, run_onnxruntime
from mlp_mixer.runtime.onnx_graph import _int8_sums_saturate, with_int8_weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# Widths of whole groups, of 32 numbers each; 6 patches are none.
CONFIG = MixerConfig(
    4, 2, 64, 32, 128, image_size=(8, 12), num_classes=5, gelu="erf", norm_eps=1e-3
)

openvino_here = pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ,
    reason="openvino takes the processor for what it is, and its kernels do not",
)


def trained(config: MixerConfig = CONFIG) -> MlpMixer:
    """No tensor is zero."""
    torch.manual_seed(0)
    model = MlpMixer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.05, 0.2)
    return model.eval()


def constants_of(model: MlpMixer) -> dict[str, Tensor]:
    graph = onnx_graph(model.config, model.state_dict(), token_mixing="transposed")
    quantised = with_int8_weights(graph)
    onnx.checker.check_model(quantised, full_check=True)
    return {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in quantised.graph.initializer
    }


def test_each_weight_is_within_half_a_step() -> None:
    model = trained()
    constants = constants_of(model)
    names = [name for name in model.state_dict() if ".fc" in name and "weight" in name]
    assert len(names) == 8
    for name in names:
        weight = model.state_dict()[name]  # (N, K)
        whole_KN, scale_N = constants[f"{name}.int8"], constants[f"{name}.scale"]
        assert whole_KN.dtype == torch.int8
        assert scale_N.shape == weight.shape[:1]
        # Every output channel uses all of the range.
        assert (whole_KN.abs().amax(0) == 127).all()
        back = (whole_KN.float() * scale_N).T
        assert ((back - weight).abs() <= 0.501 * scale_N[:, None]).all()
        assert name not in constants


def test_a_channel_of_zeros_stays_zero() -> None:
    model = trained()
    layer = model.blocks[0].mlp_channels.fc1  # type: ignore[union-attr]
    with torch.no_grad():
        layer.weight[3] = 0.0  # type: ignore[union-attr,index]
    constants = constants_of(model)
    name = "blocks.0.mlp_channels.fc1.weight"
    assert not constants[f"{name}.int8"][:, 3].any()
    assert all(tensor.isfinite().all() for tensor in constants.values())


@torch.inference_mode()
def test_any_runtime_reads_the_graph() -> None:
    """Where activations stay in float32, weights alone move the logits, and little."""
    model = trained()
    x = torch.randn(16, 3, 8, 12)
    graph = onnx_graph(CONFIG, model.state_dict(), token_mixing="transposed")
    answers = run_onnxruntime(with_int8_weights(graph).SerializeToString())(x)
    off = (answers - model(x)).square().mean().sqrt() / model(x).std()
    assert 1e-4 < off < 0.03


@openvino_here
@torch.inference_mode()
def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    """A range for each batch would have one image of large numbers blur all others."""
    pytest.importorskip("openvino")
    model = trained()
    run = openvino_int8(model)
    x = torch.randn(8, 3, 8, 12)
    try:
        alone = torch.cat([run(image[None]) for image in x[:7]])
    except RuntimeError:
        # Then the trial leaves it out, as whatever fails.
        assert _int8_sums_saturate(), "with VNNI it computes"
        pytest.skip("openvino multiplies weights of 8 bits on newer processors only")
    x[7] *= 1000
    together = run(x)[:7]
    scale = alone.std()
    assert (together - alone).abs().max() < 1e-2 * scale
    off = (together - model(x[:7])).square().mean().sqrt() / scale
    assert 1e-5 < off < 0.03


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mixer_s16", 256),
        ("mixer_b16", 192),  # 768 and 3072 are, and 384 patches' units
        ("mixer_l16", 256),
        ("mixer_h14", 128),
        ("mixer_nano4", 64),
    ],
)
def test_groups_fill_the_widths(name: str, expected: int) -> None:
    with torch.device("meta"):
        config = create_model(name).config
    assert isinstance(config, MixerConfig)
    assert int8_group(config) == expected


def test_odd_widths_have_the_smallest_group() -> None:
    config = MixerConfig(4, 1, 24, 10, 40, image_size=(8, 12), num_classes=5)
    assert int8_group(config) == 32
    # Tokens' units that no group fits do not decide for the channels.
    config = MixerConfig(4, 1, 256, 10, 512, image_size=(8, 12), num_classes=5)
    assert int8_group(config) == 256
