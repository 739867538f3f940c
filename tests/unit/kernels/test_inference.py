"""How a network computes on a GPU is chosen by a check and by time; here on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlp_mixer.kernels import TokensFirst, for_inference, inference
from mlp_mixer.kernels.tokens_first import gelu_product
from mlp_mixer.models import MixerConfig, MlpMixer, create_model

TINY = MixerConfig(4, 3, 24, 16, 32, image_size=(12, 16), num_classes=5)


def model(**changes: Any) -> MlpMixer:
    made = MlpMixer(dataclasses.replace(TINY, **changes)).eval()
    nn.init.normal_(made.head.weight)  # type: ignore[arg-type]
    return made


def times(monkeypatch: pytest.MonkeyPatch, seconds: Iterable[float]) -> None:
    """Imagine what the clock says: of the plain module, then of the others."""
    imagined = iter(seconds)
    monkeypatch.setattr(inference, "_seconds", lambda model, images: next(imagined))


@pytest.mark.parametrize(
    ("seconds", "taken", "said"),
    [(0.5, True, "2.00"), (0.99, False, "1.01"), (2.0, False, "0.50")],
)
def test_the_faster_way_is_taken_if_it_saves_enough(
    seconds: float, taken: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, [1.0, seconds])
    network = model()
    chosen, notes = inference.choose(network, 2)
    assert isinstance(chosen, TokensFirst) == taken
    assert (chosen is network) == (not taken)
    assert notes == (f"tokens first: {said} times as fast as plain",)
    image = torch.randn(2, 3, 12, 16)
    with torch.inference_mode():
        torch.testing.assert_close(chosen(image), network(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gelu", ["tanh", "erf"])
def test_the_clock_and_the_check_are_real(gelu: str, dtype: torch.dtype) -> None:
    network = model(gelu=gelu).to(dtype)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    _, notes = inference.choose(network, 3)
    (note,) = notes
    assert note.endswith("times as fast as plain"), note
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def without_bias(x: Tensor, weight: Tensor, bias: Tensor, gelu: Any) -> Tensor:
    return gelu_product(x, weight, 0 * bias, gelu)


def with_nan(x: Tensor, weight: Tensor, bias: Tensor, gelu: Any) -> Tensor:
    return gelu_product(x, weight, bias * torch.nan, gelu)


def with_the_other_gelu(x: Tensor, weight: Tensor, bias: Tensor, gelu: Any) -> Tensor:
    return gelu_product(x, weight, bias, "erf" if gelu == "tanh" else "tanh")


def failing(x: Tensor, weight: Tensor, bias: Tensor, gelu: Any) -> Tensor:
    raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED\nand more")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (without_bias, "tokens first: it is off by "),
        (with_nan, "tokens first: it is off by nan here"),
        (with_the_other_gelu, "tokens first: it is off by "),
        (failing, "it fails here: RuntimeError CUBLAS_STATUS_NOT_SUPPORTED"),
    ],
)
def test_a_way_that_is_wrong_or_fails_is_not_taken(
    fault: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_mixer.kernels import tokens_first

    monkeypatch.setattr(tokens_first, "gelu_product", fault)
    times(monkeypatch, [1.0, 1e-9])
    network = model()
    chosen, notes = inference.choose(network, 2)
    assert chosen is network
    assert said in notes[0]


def test_there_is_nothing_to_choose_on_a_cpu_or_for_other_networks() -> None:
    network = model()
    assert for_inference(network) == (network, ())
    gmlp = create_model("gmlp_ti16", num_blocks=1)
    assert inference.choose(gmlp, 1) == (gmlp, ())
    changed = model()
    changed.blocks[0].mlp_tokens.act = nn.ReLU()
    chosen, (note,) = inference.choose(changed, 1)
    assert chosen is changed
    assert "is not what its configuration builds" in note
