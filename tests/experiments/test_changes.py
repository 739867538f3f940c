"""The changes of `experiments/invariance` do what their names say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

MODULE = runpy.run_path(
    str(Path(__file__).parents[2] / "experiments" / "invariance" / "changes.py")
)
changed = MODULE["changed"]
suits = MODULE["suits"]

IMAGES = torch.randint(
    0,
    256,
    (8, 3, 32, 32),
    dtype=torch.uint8,
    generator=torch.Generator().manual_seed(0),
)


def test_what_moves_pixels_without_mixing_them_is_exact() -> None:
    assert changed(IMAGES, "rotation", 180).equal(IMAGES.flip(2, 3))
    assert changed(IMAGES, "rotation", 90)[0].equal(IMAGES[0].rot90(1, (1, 2)))
    right, left, down, up = changed(IMAGES, "shift", 3)[:4]
    assert right[:, :, 3:].equal(IMAGES[0, :, :, :-3])
    assert left[:, :, :-3].equal(IMAGES[1, :, :, 3:])
    assert down[:, 3:].equal(IMAGES[2, :, :-3])
    assert up[:, :-3].equal(IMAGES[3, :, 3:])
    assert right[:, :, :3].eq(128).all()  # grey beyond


@pytest.mark.parametrize(
    ("name", "amount"), [("tiles shuffled", 4), ("pixels shuffled", 4)]
)
def test_a_shuffle_keeps_the_pixels_and_their_tiles(name: str, amount: int) -> None:
    def tiles(images: torch.Tensor) -> torch.Tensor:
        size = 8 if name == "tiles shuffled" else 4
        return (
            images.unfold(2, size, size).unfold(3, size, size).flatten(4).flatten(2, 3)
        )  # B, C, tiles, pixels

    before = tiles(IMAGES)
    after = tiles(changed(IMAGES, name, amount))
    assert not before.equal(after)
    if name == "pixels shuffled":
        assert before.sort(dim=3).values.equal(after.sort(dim=3).values)
    else:
        assert (
            before.flatten(3)
            .sum(3)
            .sort(dim=2)
            .values.equal(after.flatten(3).sum(3).sort(dim=2).values)
        )


def test_every_change_changes_something_and_is_the_same_twice() -> None:
    for name, (_, _, amounts) in MODULE["CHANGES"].items():
        for amount in amounts:
            assert suits(name, amount, 32, 3)
            once = changed(IMAGES, name, amount)
            assert once.equal(changed(IMAGES, name, amount))
            share = (
                once.ne(IMAGES).flatten(1).any(1).double().mean()
            )  # one of 24 orders of four tiles is the old one
            assert share == 0 if name == "as it is" else share > 0.5, (name, amount)
