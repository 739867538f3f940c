"""Changes of colours: exact where nothing changes, torchvision's where it has the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from mlp_mixer import UserError
from mlp_mixer.images.augment import DRAWS, augment_batch
from mlp_mixer.images.settings import Augment

JITTER = Augment(jitter=0.4)
BOTH = Augment(jitter=0.4, gray=0.2)
# Which of a sample's numbers does what.
LIGHT, CONTRAST, SATURATION = 22, 23, 31


def draws(count: int, **numbers: float) -> Tensor:
    """Draws of which these are set; 0.4 of LIGHT is no change, 0.5 none of the others."""
    table = torch.full((count, DRAWS), 0.5, dtype=torch.float64)
    table[:, LIGHT] = 0.4
    for name, value in numbers.items():
        table[:, globals()[name]] = value
    return table


def images(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(
        0, 256, (3, channels, 6, 5), dtype=torch.uint8, generator=generator
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_one_in_five_stays_as_it_is(channels: int) -> None:
    given = images(channels)
    for light in (0.8, 0.99):
        same = augment_batch(given, draws(3, LIGHT=light, CONTRAST=0.1), JITTER)
        assert torch.equal(same, given)


def test_brightness_is_torchvisions() -> None:
    given = images()
    # 0.2 of 0.8 is a quarter of the way: 1 + 0.4 (2 / 4 - 1).
    changed = augment_batch(given, draws(3, LIGHT=0.2), JITTER)
    expected = tv.adjust_brightness(given.double() / 255, 0.8) * 255
    assert (changed.double() - expected).abs().max() <= 0.501


def test_contrast_of_gray_images_is_torchvisions() -> None:
    given = images(1) // 2 + 60
    changed = augment_batch(given, draws(3, CONTRAST=1 - 1e-9), JITTER)
    expected = tv.adjust_contrast(given.double() / 255, 1.4) * 255
    assert (changed.double() - expected).abs().max() <= 0.501


def test_gray_is_the_mean_of_the_channels() -> None:
    given = images()
    changed = augment_batch(given, draws(3, LIGHT=0.9, SATURATION=0.19), BOTH)
    expected = given.double().mean(1, keepdim=True).round().expand(-1, 3, -1, -1)
    assert torch.equal(changed.double(), expected)
    kept = augment_batch(given, draws(3, LIGHT=0.9, SATURATION=0.21), BOTH)
    assert torch.equal(kept, given)


def test_the_shares_are_those_of_simclr() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(4000, DRAWS, dtype=torch.float64, generator=generator)
    colour = torch.tensor([125, 100, 75], dtype=torch.uint8)[:, None, None]
    given = colour.expand(4000, 3, 2, 2)
    seen = augment_batch(given, table, BOTH)[:, :, 0, 0].double()
    gray = (seen - seen[:, :1]).abs().amax(1) < 1
    same = (seen - given[:, :, 0, 0]).abs().amax(1) < 1
    assert gray.double().mean().item() == pytest.approx(0.2, abs=0.03)
    # Unchanged, and not gray; a few changes are too small to be seen.
    assert same.double().mean().item() == pytest.approx(0.2 * 0.8, abs=0.03)
    light = seen.mean(1) / 100
    assert 0.59 < light.min() < 0.63
    assert 1.37 < light.max() < 1.41


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(UserError, match=r"augment\.jitter must be at least 0"):
        Augment(jitter=1.0)
    with pytest.raises(UserError, match=r"augment\.gray must be a probability"):
        Augment(gray=1.5)
