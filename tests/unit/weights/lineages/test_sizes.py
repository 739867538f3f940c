"""Patch side, channels and image size are read off the shapes, or asked for."""

from __future__ import annotations

import dataclasses

import pytest

from mlp_mixer import UserError
from mlp_mixer.weights.lineages import translate
from mlp_mixer.weights.lineages.sizes import _example
from mlp_mixer.weights.lineages.tables import LINEAGES

from ..networks import SQUARE, random_tensors


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [
        (
            "timm",
            None,
            "6 patches of 2 pixels, which form no square; state the image size",
        ),
        ("timm", (6, 4), ""),
        ("timm", (4, 6), ""),
        ("timm", (8, 8), "8x8 gives 4 x 4"),
        ("timm", (4, 7), "4x7 gives 2 x 3"),
    ],
)
def test_a_grid_that_is_no_square_is_asked_for(
    name: str, image_size: tuple[int, int] | None, message: str
) -> None:
    lineage = LINEAGES[name]
    config = dataclasses.replace(SQUARE, image_size=(4, 6), gelu="erf")
    theirs = translate.to_theirs(config, random_tensors(config), lineage)
    if message:
        with pytest.raises(UserError, match=message):
            translate.to_ours(theirs, lineage, "", "it", image_size)
    else:
        assert (
            translate.to_ours(theirs, lineage, "", "it", image_size)[0].image_size
            == image_size
        )


@pytest.mark.parametrize(
    ("patch", "channels", "size", "expected"),
    [
        (4, 3, None, (4, 3)),
        (4, 1, None, (4, 1)),
        (
            2,
            4,
            None,
            (4, 1),
            # 16 values: three channels impossible, one channel of 4 x 4 is tried before
            # four of 2 x 2
        ),
        (2, 4, (8, 8), (2, 4)),
        (3, 2, None, None),  # 18 values fit neither 3, 1 nor 4 channels
        (3, 2, (12, 12), (3, 2)),
    ],
)
@pytest.mark.parametrize("name", ["lucidrains", "keras"])
def test_a_flattened_stem_tries_three_one_and_four_channels_and_then_asks(
    name: str,
    patch: int,
    channels: int,
    size: tuple[int, int] | None,
    expected: tuple[int, int] | None,
) -> None:
    lineage = LINEAGES[name]
    config = dataclasses.replace(
        SQUARE,
        patch_size=patch,
        in_channels=channels,
        image_size=(4 * patch, 4 * patch),
        tokens_mlp_dim=16,
        channels_mlp_dim=16,
        final_norm=lineage.final_norm,
    )
    theirs = translate.to_theirs(
        config, random_tensors(config, shared_norm=True), lineage
    )
    if expected is None:
        with pytest.raises(
            UserError, match="does not tell its side and channels; state the image size"
        ):
            translate.to_ours(theirs, lineage, "", "it", size)
    else:
        got, _ = translate.to_ours(theirs, lineage, "", "it", size)
        assert (got.patch_size, got.in_channels) == expected


@pytest.mark.parametrize(
    ("patches", "expected"),
    [(12, "48x64"), (14, "32x112"), (13, "16x208"), (21, "48x112"), (40, "80x128")],
)
def test_the_example_is_the_most_square_size(patches: int, expected: str) -> None:
    assert _example(patches, 16) == expected
