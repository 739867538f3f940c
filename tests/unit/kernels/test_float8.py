"""Channel MLPs in e4m3: where they can be, how far they are from fp32, and what they
hand to CUDA's product.
"""

from __future__ import annotations

import copy
import dataclasses
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mlp_mixer import UserError
from mlp_mixer.kernels import float8, fp8, fuse, network, why_not_fp8
from mlp_mixer.kernels.float8 import E4M3, Fp8Linear, rounded_rows
from mlp_mixer.models import VARIANTS, MlpMixer, create_model

S16 = dataclasses.replace(
    VARIANTS["mixer_s16"], num_blocks=2, num_classes=100, gelu="erf"
)


def trained(model: MlpMixer) -> MlpMixer:
    """No tensor is zero, and the rows of the kernels differ in size by four orders of
    magnitude.
    """
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for block in model.blocks:
        for linear in (block.mlp_channels.fc1, block.mlp_channels.fc2):
            size = torch.logspace(-2, 2, linear.out_features)[
                torch.randperm(linear.out_features)
            ]
            linear.weight.data *= size[:, None]
            linear.bias.data *= size
    return model.eval()


def off(x: Tensor, truth: Tensor) -> float:
    return float((x.double() - truth.double()).norm() / truth.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_are_rounded_to_three_bits_whatever_their_size(dtype: torch.dtype) -> None:
    x = (torch.randn(50, 64) * torch.logspace(-8, 8, 50)[:, None]).to(dtype)
    x[7] = 0
    rounded, scale = rounded_rows(x)
    assert (rounded.dtype, scale.dtype, scale.shape) == (E4M3, torch.float32, (50, 1))
    back = rounded.double() * scale.double()
    largest = x.double().abs().amax(1, keepdim=True)
    assert torch.equal(back[7], torch.zeros(64, dtype=torch.double))
    torch.testing.assert_close(
        back.abs().amax(1, keepdim=True), largest, rtol=1e-6, atol=0
    )
    halves = (
        x.double().abs() / 16 + largest / 448 / 2**10
    )  # half a step of 3 bits; below 2^-6 steps are all alike
    assert ((back - x.double()).abs() <= halves * 1.0001).all()
    assert ((back - x.double()).abs() > 0.8 * x.double().abs() / 16).any(), (
        "rounded finer than e4m3 can"
    )


@pytest.mark.parametrize("shape", [(5, 64), (1, 64), (2, 3, 64)])
def test_a_layer_is_the_product_of_what_was_rounded(shape: tuple[int, ...]) -> None:
    linear = nn.Linear(64, 32)
    x = torch.randn(*shape).bfloat16()
    layer = Fp8Linear(linear)
    (rows, of_rows) = rounded_rows(x.reshape(-1, 64))
    (weight, of_weight) = rounded_rows(linear.weight.detach())
    exact = (rows.double() * of_rows) @ (
        weight.double() * of_weight
    ).t() + linear.bias.double()
    got = layer(x)
    assert (got.dtype, got.shape) == (torch.bfloat16, (*shape[:-1], 32))
    torch.testing.assert_close(
        got.double().reshape(-1, 32), exact, rtol=2**-7, atol=2**-9
    )


def test_answers_of_s16_s_widths_stay_near_fp32_and_weights_are_rounded_once() -> None:
    model = trained(MlpMixer(S16))
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(4, 3, 224, 224)
    with torch.inference_mode():
        truth = model(images)
        narrow = fp8(model)
        kernels = [m for m in narrow.modules() if isinstance(m, Fp8Linear)]
        assert [m.weight.dtype for m in kernels] == [E4M3] * 4
        with mock.patch.object(
            float8, "rounded_rows", side_effect=rounded_rows
        ) as rounding:
            ours = narrow(images.bfloat16())
        bf16 = copy.deepcopy(model).bfloat16()(images.bfloat16())
    shapes = [call.args[0].shape for call in rounding.call_args_list]
    assert shapes == [(4 * 196, 512), (4 * 196, 2048)] * 2, "not activations only"
    assert ours.dtype == torch.bfloat16
    assert (
        2 * off(bf16, truth) < off(ours, truth) < 0.06
    )  # 0.036 when written, bf16 0.005
    assert torch.cosine_similarity(ours.float(), truth).min() > 0.998
    assert all(
        torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()
    )
    assert not any(p.requires_grad for p in narrow.parameters())
    assert not narrow.training


def test_compiled_it_is_one_graph_and_answers_alike() -> None:
    model = trained(create_model("mixer_pico2", num_classes=10))
    narrow = fp8(model)
    images = torch.randn(3, 3, 8, 8).bfloat16()
    with torch.inference_mode():
        compiled = torch.compile(narrow, fullgraph=True, backend="aot_eager")(images)
        assert torch.equal(compiled, narrow(images))


@pytest.mark.parametrize("batch", [1, 2])
def test_on_a_gpu_every_channel_product_is_one_of_fp8_between_fused_token_mixings(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors that pretend: torch's own rules for CUDA about layouts, scales and
    alignment are asked.
    """
    pytest.importorskip("triton")
    monkeypatch.setattr(network, "_machine_lacks", lambda device: None)
    monkeypatch.setattr(float8, "why_not_fp8", lambda model: None)
    with torch.device("meta"):
        narrow = fp8(create_model("mixer_pico2", num_classes=10))
    with FakeTensorMode(allow_non_fake_inputs=True):
        fused = fuse(narrow.to_empty(device="cuda"))
        graph = make_fx(fused)(
            torch.empty(batch, 3, 8, 8, device="cuda", dtype=torch.bfloat16)
        ).graph
    wanted = ("mlp_mixer.token_mix.default", "aten._scaled_mm.default")
    found = [str(node.target) for node in graph.nodes if str(node.target) in wanted]
    assert (
        found == ["mlp_mixer.token_mix.default", *["aten._scaled_mm.default"] * 2] * 4
    )
    (product, *_) = (node for node in graph.nodes if str(node.target) == wanted[1])
    assert product.args[-1] is True, "without fast accumulation it is slower than bf16"
    assert product.meta["val"].dtype == torch.bfloat16


def test_reasons_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("mixer_pico2")
    assert why_not_fp8(model) is None
    assert why_not_fp8(model, "mps") == "fp8 is built for CUDA and the CPU, not for mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_not_fp8(model, "cuda") == "there is no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, reason in (
        (
            (8, 6),
            "compute capability 8.6 is older than 8.9, the first with products in fp8",
        ),
        ((8, 9), None),
        ((9, 0), None),
        ((10, 0), None),
    ):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device, it=capability: it
        )
        assert why_not_fp8(model, "cuda") == reason
    odd = create_model("mixer_pico2", hidden_dim=40)
    with pytest.raises(
        UserError,
        match=r"fp8: its widths 40 and 256 are not both multiples of 16; use bf16$",
    ):
        fp8(odd)
    assert (
        why_not_fp8(create_model("gmlp_ti16")) == "its blocks are not those of a Mixer"
    )
