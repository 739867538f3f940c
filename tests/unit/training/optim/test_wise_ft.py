"""The weights that are kept lie between those of the start and of the end."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlp_mixer import load
from mlp_mixer.training import train
from mlp_mixer.training.optim.wise_ft import WiseFt


def test_the_mixture_follows_its_formula() -> None:
    learnt = nn.Linear(3, 2)
    start = copy.deepcopy(learnt.weight.detach())
    wise_ft = WiseFt(learnt, 0.25)
    learnt.weight.data += 1.0
    for _ in range(2):  # mixing twice is mixing once
        wise_ft.mix()
        torch.testing.assert_close(wise_ft.mixed.weight.data, start + 0.75)
    torch.testing.assert_close(learnt.weight.data, start + 1.0)
    learnt.weight.data += 2.0
    wise_ft.mix()
    torch.testing.assert_close(wise_ft.mixed.weight.data, start + 0.75 * 3)


def test_before_the_first_step_the_mixture_is_the_start_to_the_bit() -> None:
    learnt = nn.Linear(64, 64)
    wise_ft = WiseFt(learnt, 0.3)
    wise_ft.mix()
    assert torch.equal(wise_ft.mixed.weight, learnt.weight)


def weights(run: Path) -> dict[str, Tensor]:
    return load(run / "last.safetensors").model.state_dict()


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_shares_of_the_start_lie_on_one_line(
    tmp_path: Path, tiny: Any, ema: float
) -> None:
    """The steps are the same, whatever is evaluated."""
    found = {}
    for share in (0.0, 0.25, 0.75):
        run = tmp_path / str(share)
        train(tiny(start_share=share, epochs=0.5, ema=ema), run)
        found[share] = weights(run)
    far = 0.0
    for name, end in found[0.0].items():
        quarter = found[0.25][name] - end
        torch.testing.assert_close(
            found[0.75][name] - end, 3 * quarter, rtol=1e-4, atol=1e-6
        )
        far = max(far, float(quarter.abs().max()))
    assert far > 1e-3, "nothing has moved"


def test_a_crash_does_not_lose_the_start(
    tmp_path: Path, tiny: Any, digests: Any, crash_at: Any, crash: type[Exception]
) -> None:
    config = tiny(start_share=0.5)
    train(config, tmp_path / "unbroken")
    with pytest.raises(crash):
        train(config, tmp_path / "broken", report=crash_at(9))
    train(config, tmp_path / "broken", resume=True)
    assert digests(tmp_path / "broken") == digests(tmp_path / "unbroken")
