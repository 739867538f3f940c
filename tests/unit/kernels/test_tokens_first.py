"""Networks with the tokens outermost answer as the plain ones."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mlp_mixer import UserError
from mlp_mixer.kernels.tokens_first import (
    TokensFirst,
    add_product_,
    gelu_product,
    is_fused_gelu,
    why_not_tokens_first,
)
from mlp_mixer.models import VARIANTS, MixerConfig, MlpMixer, create_model

TINY = MixerConfig(4, 3, 24, 16, 32, image_size=(12, 16), num_classes=5)
CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def made(config: MixerConfig = TINY, **changes: Any) -> MlpMixer:
    """A network none of whose tensors is zero, and whose biases are large."""
    model = MlpMixer(dataclasses.replace(config, **changes)).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def images(model: MlpMixer, n: int = 3) -> Tensor:
    return torch.randn(n, model.config.in_channels, *model.config.image_size)


@torch.inference_mode()
def assert_alike(model: MlpMixer, n: int = 3, within: float = 1e-5) -> None:
    """In units of the largest number."""
    image = images(model, n)
    expected = model(image)
    largest = float(expected.abs().max())
    found = TokensFirst(model)(image)
    torch.testing.assert_close(found, expected, rtol=0, atol=within * largest)


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
@pytest.mark.parametrize("last", [True, False], ids=["norm", "no_norm"])
@pytest.mark.parametrize(
    "size", [(4, 4), (4, 8), (12, 16), (20, 20), (16, 32)], ids=str
)
def test_answers_are_those_of_the_plain_network(
    size: tuple[int, int], last: bool, gelu: str
) -> None:
    """1, 2, 12, 25 and 32 tokens: a multiple of eight or not."""
    assert_alike(made(image_size=size, final_norm=last, gelu=gelu))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 0},
        {"in_channels": 1},
        {"norm_eps": 1e-3},
        {"num_blocks": 1},
        {"patch_size": 2, "hidden_dim": 7, "tokens_mlp_dim": 5, "channels_mlp_dim": 3},
        {"dropout": 0.5, "drop_path": 0.5, "drop_path_rule": "timm"},
        {"hidden_dim": 1, "tokens_mlp_dim": 1, "channels_mlp_dim": 1},
    ],
    ids=str,
)
def test_every_configuration_of_a_mixer_is_served(changes: dict[str, Any]) -> None:
    # With one channel a norm gives its bias whatever comes: the network is a constant.
    assert_alike(made(**changes))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_is_served(name: str) -> None:
    """As it is, but for the number and the width of its blocks, which cost time."""
    config = dataclasses.replace(
        VARIANTS[name],
        num_blocks=2,
        hidden_dim=32,
        tokens_mlp_dim=16,
        channels_mlp_dim=64,
        num_classes=3,
    )
    assert_alike(made(config), n=1)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_any_number_of_images_is_served(n: int) -> None:
    model = made()
    with torch.inference_mode():
        found = TokensFirst(model)(images(model, n))
    assert found.shape == (n, 5)
    if n:
        assert_alike(model, n)


@pytest.mark.parametrize("last", [True, False], ids=["norm", "no_norm"])
def test_tokens_are_the_plain_ones_too(last: bool) -> None:
    model = made(final_norm=last)
    image = images(model)
    with torch.inference_mode():
        expected = model.forward_features(image).transpose(0, 1)
        found = TokensFirst(model).forward_features(image)
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_it_computes_in_the_dtype_of_the_weights(dtype: torch.dtype) -> None:
    exact = made().double()
    model = made()
    model.load_state_dict(exact.state_dict())
    image = images(model)
    with torch.inference_mode():
        truth = exact(image.double())
        plain = model.to(dtype)(image.to(dtype))
        found = TokensFirst(model.to(dtype))(image.to(dtype))
    assert found.dtype == dtype
    our_error = (found.double() - truth).norm() / truth.norm()
    plain_error = (plain.double() - truth).norm() / truth.norm()
    assert our_error <= 2 * plain_error + torch.finfo(dtype).eps


def test_the_network_is_not_changed_and_its_memory_is_shared() -> None:
    model = made(image_size=(16, 32)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    converted = TokensFirst(model)
    image = images(model)
    kept = image.clone()
    converted(image)
    assert torch.equal(image, kept)
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    matrices = [
        tensor for tensor in converted.state_dict().values() if tensor.ndim == 2
    ]
    assert all(matrix.data_ptr() in own for matrix in matrices)


def test_what_it_cannot_be_is_said() -> None:
    assert why_not_tokens_first(made()) is None
    gmlp = create_model("gmlp_ti16", num_blocks=1)
    assert why_not_tokens_first(gmlp) == "its blocks are not those of a Mixer"
    with pytest.raises(UserError, match="TokensFirst knows Mixers only, got GMlp"):
        TokensFirst(gmlp)
    changed = made()
    changed.blocks[1].mlp_tokens.act = nn.ReLU()
    with pytest.raises(UserError, match="is not what its configuration builds"):
        TokensFirst(changed)
    said = r"takes images of shape \(batch, 3, 12, 16\), got \(1, 3, 16, 12\)"
    with pytest.raises(UserError, match=said):
        TokensFirst(made())(torch.zeros(1, 3, 16, 12))


def test_torch_s_product_with_gelu_has_the_erf_form_on_the_cpu() -> None:
    """And the tanh form on CUDA, as tests/gpu checks: hence `is_fused_gelu`."""
    x = torch.linspace(-4, 4, 64)[:, None].double()
    weight = torch.ones(1, 1).double()
    bias = torch.zeros(1).double()
    fused = torch._addmm_activation(bias, x, weight, use_gelu=True)
    torch.testing.assert_close(fused, F.gelu(x), rtol=0, atol=1e-12)
    assert (fused - F.gelu(x, approximate="tanh")).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("gelu", "dtype", "device", "fused"),
    [
        ("erf", torch.float32, CPU, True),
        ("tanh", torch.float32, CPU, False),
        ("tanh", torch.bfloat16, CPU, False),
        ("tanh", torch.float32, CUDA, True),
        ("erf", torch.float32, CUDA, False),
        ("erf", torch.float16, CUDA, False),
        ("erf", torch.bfloat16, CUDA, True),
        ("erf", torch.float32, torch.device("mps"), False),
    ],
)
def test_a_product_with_another_gelu_is_not_taken(
    gelu: Any, dtype: torch.dtype, device: torch.device, fused: bool
) -> None:
    assert is_fused_gelu(gelu, dtype, device) == fused
    if device == CPU:
        x, weight, bias = torch.randn(5, 4), torch.randn(3, 4), torch.randn(3)
        approximate = "tanh" if gelu == "tanh" else "none"
        expected = F.gelu(F.linear(x, weight, bias), approximate=approximate)
        found = gelu_product(x, weight, bias, gelu)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_in_bf16_the_tanh_form_is_nearer_to_erf_than_bf16_s_own_rounding() -> None:
    """What `is_fused_gelu` says of the two forms."""
    x = torch.linspace(-8, 8, 200_001).double()
    exact = F.gelu(x)
    form = (F.gelu(x, approximate="tanh") - exact).abs()
    assert 4.6e-4 < form.max() < 4.8e-4
    at = x[form.argmax()].abs()
    assert 2 < at < 4
    # Half a step of bf16 between 2 and 4.
    assert form.max() < 2**-7 / 10
    noise = torch.randn(100_000, dtype=torch.float64)
    signal = F.gelu(noise)
    apart = (F.gelu(noise, approximate="tanh") - signal).norm() / signal.norm()
    rounding = (signal.bfloat16().double() - signal).norm() / signal.norm()
    assert 1.5e-4 < apart < 2.5e-4
    assert rounding > 6 * apart


def test_a_block_is_four_products_and_two_norms_and_transposes_nothing() -> None:
    """On tensors that pretend to be on a GPU."""
    with torch.device("meta"):
        model = MlpMixer(dataclasses.replace(TINY, image_size=(16, 32))).bfloat16()
        converted = TokensFirst(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty(2, 3, 16, 32, device="cuda", dtype=torch.bfloat16)
        graph = make_fx(converted.to_empty(device="cuda"))(image).graph
    found = [str(node.target) for node in graph.nodes]
    gelu = "aten._addmm_activation.default"
    product = "mlp_mixer.add_product_.default"
    assert [name for name in found if name in (gelu, product)] == [gelu, product] * 6
    assert found.count("aten.native_layer_norm.default") == 7
    # The patches of the images are copied once, and nothing else is.
    copies = ("aten.clone.default", "aten._reshape_copy.default", "aten.cat.default")
    assert sum(found.count(name) for name in copies) <= 1
    for node in graph.nodes:
        if str(node.target) == gelu:
            bias, rows, weight = (argument.meta["val"] for argument in node.args[:3])
            # As cuBLASLt takes a bias: one for each column of a contiguous result.
            assert bias.shape == (weight.shape[1],)
            assert node.meta["val"].is_contiguous()
            assert 1 in rows.stride()


def test_traced_whole_it_answers_alike_for_any_batch() -> None:
    model = made()
    converted = TokensFirst(model)
    compiled = torch.compile(
        converted, fullgraph=True, backend="aot_eager", dynamic=True
    )
    for n in (2, 5):
        image = images(model, n)
        with torch.inference_mode():
            found = compiled(image)
            torch.testing.assert_close(found, model(image), rtol=1e-4, atol=1e-5)


def test_compiled_whole_it_answers_alike_and_copies_no_tokens() -> None:
    """With the erf form: on the CPU that is the one that torch fuses."""
    model = made(num_blocks=2, image_size=(12, 12), gelu="erf")
    compiled = torch.compile(TokensFirst(model), fullgraph=True)
    image = images(model)
    with torch.inference_mode():
        expected = model(image)
        found, (code,) = run_and_get_code(compiled, image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # Four additions to x, all in the one place where the stem has put it.
    added = r"mlp_mixer\.add_product_\.default\(reinterpret_tensor\((buf\d+), "
    places = re.findall(added, code)
    assert len(places) == 4
    assert len(set(places)) == 1
    assert code.count("aten._addmm_activation.default(") == 4
    # The norm writes 9 tokens and 7 rows of zeros into one tensor of 16.
    assert code.count("(9, 3, 24), (72, 24, 1), 0)  # alias") == 2


def test_the_operator_is_well_behaved() -> None:
    given = (torch.randn(2, 3, 5), torch.randn(6, 4), torch.randn(5, 4).t())
    torch.library.opcheck(add_product_, given)
    x = given[0].clone()
    add_product_(x, *given[1:])
    expected = given[0] + (given[1] @ given[2]).view(2, 3, 5)
    torch.testing.assert_close(x, expected)
