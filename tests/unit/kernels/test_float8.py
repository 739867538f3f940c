"""Channel MLPs in e4m3: where they can run, how far they are from fp32, and on CUDA."""

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

# Two blocks of the paper's S/16.
S16 = dataclasses.replace(
    VARIANTS["mixer_s16"], num_blocks=2, num_classes=100, gelu="erf"
)


def trained(model: MlpMixer) -> MlpMixer:
    """As after training: no tensor is zero, and rows differ in size.

    Those of the channel MLPs by four orders of magnitude.
    """
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for block in model.blocks:
        for linear in (block.mlp_channels.fc1, block.mlp_channels.fc2):
            sizes = torch.logspace(-2, 2, linear.out_features)
            sizes = sizes[torch.randperm(linear.out_features)]
            linear.weight.data *= sizes[:, None]
            linear.bias.data *= sizes
    return model.eval()


def off(x: Tensor, truth: Tensor) -> float:
    """The norm of the error, in units of the norm of the truth."""
    return float((x.double() - truth.double()).norm() / truth.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_are_rounded_to_three_bits_whatever_their_size(dtype: torch.dtype) -> None:
    x = (torch.randn(50, 64) * torch.logspace(-8, 8, 50)[:, None]).to(dtype)
    x[7] = 0
    rounded, scale = rounded_rows(x)
    assert (rounded.dtype, scale.dtype, scale.shape) == (E4M3, torch.float32, (50, 1))
    back = rounded.double() * scale.double()
    largest = x.double().abs().amax(1, keepdim=True)
    assert (back[7] == 0).all()
    torch.testing.assert_close(
        back.abs().amax(1, keepdim=True), largest, rtol=1e-6, atol=0
    )
    # Half a step of 3 bits; below 2^-6 all steps are alike.
    half_step = x.double().abs() / 16
    error = (back - x.double()).abs()
    allowed = half_step + largest / 448 / 2**10
    assert (error <= allowed * 1.0001).all()
    assert (error > 0.8 * half_step).any(), "rounded finer than e4m3 can"


@pytest.mark.parametrize("shape", [(5, 64), (1, 64), (2, 3, 64)])
def test_a_layer_is_the_product_of_what_was_rounded(shape: tuple[int, ...]) -> None:
    linear = nn.Linear(64, 32)
    x = torch.randn(*shape).bfloat16()
    layer = Fp8Linear(linear)
    rows, row_scales = rounded_rows(x.reshape(-1, 64))
    weight, weight_scales = rounded_rows(linear.weight.detach())
    left = rows.double() * row_scales
    right = weight.double() * weight_scales
    exact = left @ right.t() + linear.bias.double()
    got = layer(x)
    assert (got.dtype, got.shape) == (torch.bfloat16, (*shape[:-1], 32))
    torch.testing.assert_close(
        got.double().reshape(-1, 32), exact, rtol=2**-7, atol=2**-9
    )


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_on_the_cpu_torch_s_product_in_fp8_is_not_asked(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of torch 2.11, the oldest that is supported, takes no scale for each row."""

    def refuses(*given: object, **options: object) -> None:
        raise RuntimeError("only supports per-tensor scaling for CPU backend")

    monkeypatch.setattr(torch, "_scaled_mm", refuses)
    linear = nn.Linear(64, 32)
    x = torch.randn(rows, 64) * torch.logspace(-3, 3, rows)[:, None]
    with torch.inference_mode():
        assert off(Fp8Linear(linear)(x), linear(x)) < 0.06


def test_answers_of_s16_s_widths_stay_near_fp32_and_weights_are_rounded_once() -> None:
    model = trained(MlpMixer(S16))
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(4, 3, 224, 224)
    with torch.inference_mode():
        truth = model(images)
        narrow = fp8(model)
        layers = [m for m in narrow.modules() if isinstance(m, Fp8Linear)]
        assert [layer.weight.dtype for layer in layers] == [E4M3] * 4
        spy = mock.Mock(side_effect=rounded_rows)
        with mock.patch.object(float8, "rounded_rows", spy):
            ours = narrow(images.bfloat16())
        in_bf16 = copy.deepcopy(model).bfloat16()(images.bfloat16())
    shapes = [call.args[0].shape for call in spy.call_args_list]
    assert shapes == [(4 * 196, 512), (4 * 196, 2048)] * 2, "not activations only"
    assert ours.dtype == torch.bfloat16
    # 0.036 when this was written, and 0.005 in bf16.
    assert 2 * off(in_bf16, truth) < off(ours, truth) < 0.06
    assert torch.cosine_similarity(ours.float(), truth).min() > 0.998
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor), name
    assert not any(p.requires_grad for p in narrow.parameters())
    assert not narrow.training


def test_compiled_it_is_one_graph_and_answers_alike() -> None:
    model = trained(create_model("mixer_pico2", num_classes=10))
    narrow = fp8(model)
    compiled = torch.compile(narrow, fullgraph=True, backend="aot_eager")
    images = torch.randn(3, 3, 8, 8).bfloat16()
    with torch.inference_mode():
        # A compiler may round elsewhere: half a per cent is bf16's own rounding.
        assert off(compiled(images), narrow(images)) < 0.01


@pytest.mark.parametrize("batch", [1, 2])
def test_on_a_gpu_every_channel_product_is_one_of_fp8_between_fused_token_mixings(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors that pretend to be on a GPU.

    torch's own rules for CUDA are asked about layouts, scales and alignment.
    """
    pytest.importorskip("triton")
    monkeypatch.setattr(network, "_machine_lacks", lambda device: None)
    monkeypatch.setattr(float8, "why_not_fp8", lambda model: None)
    # So few images are not fused otherwise.
    from mlp_mixer.kernels import block

    monkeypatch.setattr(block, "LEAST_PROGRAMS", 1)
    with torch.device("meta"):
        narrow = fp8(create_model("mixer_pico2", num_classes=10))
    with FakeTensorMode(allow_non_fake_inputs=True):
        fused = fuse(narrow.to_empty(device="cuda"))
        images = torch.empty(batch, 3, 8, 8, device="cuda", dtype=torch.bfloat16)
        graph = make_fx(fused)(images).graph
    token_mix = "mlp_mixer.token_mix.default"
    scaled_mm = "aten._scaled_mm.default"
    targets = [str(node.target) for node in graph.nodes]
    found = [target for target in targets if target in (token_mix, scaled_mm)]
    assert found == [token_mix, scaled_mm, scaled_mm] * 4
    product = next(node for node in graph.nodes if str(node.target) == scaled_mm)
    assert product.args[-1] is True, "without fast accumulation it is slower than bf16"
    assert product.meta["val"].dtype == torch.bfloat16


TOO_OLD = "compute capability 8.6 is older than 8.9, the first with products in fp8"


@pytest.mark.parametrize(
    ("capability", "reason"),
    [((8, 6), TOO_OLD), ((8, 9), None), ((9, 0), None), ((10, 0), None)],
)
def test_gpus_from_8_9_on_have_products_in_fp8(
    capability: tuple[int, int], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert why_not_fp8(create_model("mixer_pico2"), "cuda") == reason


def test_reasons_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("mixer_pico2")
    assert why_not_fp8(model) is None
    assert why_not_fp8(model, "mps") == "fp8 is built for CUDA and the CPU, not for mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_not_fp8(model, "cuda") == "there is no CUDA device"
    gmlp = create_model("gmlp_ti16", num_blocks=1)
    assert why_not_fp8(gmlp) == "its blocks are not those of a Mixer"
    odd = create_model("mixer_pico2", hidden_dim=40)
    said = "fp8: its widths 40 and 256 are not both multiples of 16; use bf16$"
    with pytest.raises(UserError, match=said):
        fp8(odd)
