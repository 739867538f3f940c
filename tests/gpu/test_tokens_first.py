"""The layout with the tokens outermost on a real GPU; no kernel of ours is in it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_mixer import create_model
from mlp_mixer.kernels import TokensFirst, for_inference
from mlp_mixer.models import IsotropicMlp

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def network(name: str, gelu: str) -> IsotropicMlp:
    """A network none of whose tensors is zero."""
    model = create_model(name, num_classes=10, gelu=gelu).cuda().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    nn.init.normal_(model.head.weight, std=0.1)  # type: ignore[arg-type]
    return model


def images(model: IsotropicMlp, n: int) -> Tensor:
    return torch.randn(n, 3, *model.config.image_size, device="cuda")


def off(tensor: Tensor, truth: Tensor) -> float:
    """The norm of the difference, in units of the norm of the truth."""
    return float((tensor.double() - truth).norm() / truth.norm())


def test_a_product_with_gelu_has_the_tanh_form_on_cuda() -> None:
    """In every dtype, for shapes that cuBLASLt takes and for those that it may not."""
    for dtype, within in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        for rows, columns in ((64, 16), (7, 3), (1, 1)):
            x = torch.linspace(-4, 4, rows * 8, device="cuda", dtype=dtype)
            x = x.view(rows, 8)
            weight = torch.eye(8, columns, device="cuda", dtype=dtype)
            bias = torch.zeros(columns, device="cuda", dtype=dtype)
            found = torch._addmm_activation(bias, x, weight, use_gelu=True)
            expected = F.gelu(x @ weight, approximate="tanh")
            torch.testing.assert_close(found, expected, rtol=0, atol=within)


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str
)
@pytest.mark.parametrize("name", ["mixer_s32", "mixer_b16", "mixer_nano4"])
def test_tokens_first_errs_no_more_than_the_plain_module(
    name: str, dtype: torch.dtype, gelu: str
) -> None:
    model = network(name, gelu)
    image = images(model, 8)
    with torch.inference_mode():
        truth = model.double()(image.double())
        plain = model.to(dtype)(image.to(dtype))
        found = TokensFirst(model)(image.to(dtype))
    assert off(found, truth) <= 2 * off(plain, truth) + torch.finfo(dtype).eps


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_tokens_first_compiled_answers_alike(mode: str | None) -> None:
    model = network("mixer_s32", "erf")
    image = images(model, 64).bfloat16()
    with torch.inference_mode():
        truth = model.double()(image.double())
        converted = TokensFirst(model.bfloat16())
        eager = off(converted(image), truth)
        compiled = torch.compile(converted, fullgraph=True, mode=mode)
        for _ in range(3):
            assert off(compiled(image), truth) <= 2 * eager + 2**-8


def test_tokens_first_is_chosen_by_a_check_and_a_timing() -> None:
    model = network("mixer_s16", "tanh").bfloat16()
    chosen, notes = for_inference(model)
    print(f"\n{type(chosen).__name__}: {'; '.join(notes)}")
    assert not any("fails" in note or "off by" in note for note in notes), notes
