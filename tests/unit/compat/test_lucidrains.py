"""lucidrains' constructors beside the original package: names, numbers, randomness."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlp_mixer_pytorch
import numpy as np
import pytest
import torch
from torch import nn

from mlp_mixer import UserError
from mlp_mixer.compat.lucidrains import MLPMixer, MLPMixer3D

DEFAULTS = pytest.mark.filterwarnings("ignore:the default expansions make:UserWarning")
PAPER = {"expansion_factor": 0.5, "expansion_factor_token": 4}
SMALL = {
    "image_size": 12,
    "channels": 3,
    "patch_size": 4,
    "dim": 10,
    "depth": 2,
    "num_classes": 5,
}
VIDEO = SMALL | {"time_size": 6, "time_patch_size": 2}

CASES: dict[
    str, tuple[Callable[..., nn.Sequential], dict[str, Any], tuple[int, ...]]
] = {
    "square": (MLPMixer, SMALL, (3, 12, 12)),
    "rectangle": (MLPMixer, SMALL | {"image_size": (8, 20)}, (3, 8, 20)),
    "one channel": (MLPMixer, SMALL | {"channels": 1}, (1, 12, 12)),
    "four channels": (MLPMixer, SMALL | {"channels": 4}, (4, 12, 12)),
    "paper's widths": (MLPMixer, SMALL | PAPER, (3, 12, 12)),
    "truncated widths": (
        MLPMixer,
        SMALL | {"expansion_factor": 0.77, "expansion_factor_token": 1.99},
        (3, 12, 12),
    ),
    "one patch": (MLPMixer, SMALL | {"image_size": 4, "depth": 1}, (3, 4, 4)),
    "one pixel": (MLPMixer, SMALL | {"image_size": 3, "patch_size": 1}, (3, 3, 3)),
    "dropout": (MLPMixer, SMALL | {"dropout": 0.3}, (3, 12, 12)),
    "video": (MLPMixer3D, VIDEO, (3, 6, 12, 12)),
    "oblong video": (
        MLPMixer3D,
        VIDEO | {"image_size": (8, 20), "channels": 2},
        (2, 6, 8, 20),
    ),
    "one frame": (
        MLPMixer3D,
        VIDEO | {"time_size": 1, "time_patch_size": 1},
        (3, 1, 12, 12),
    ),
}


@DEFAULTS
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
class TestBesideTheOriginal:
    """Each case is built by both, from the same arguments."""

    def test_same_names_shapes_order_and_initial_weights(self, case: Any) -> None:
        make, arguments, _ = case
        torch.manual_seed(5)
        ours = make(**arguments).state_dict()
        torch.manual_seed(5)
        theirs = getattr(mlp_mixer_pytorch, make.__name__)(**arguments).state_dict()
        assert list(ours) == list(theirs)
        for name in theirs:
            assert torch.equal(ours[name], theirs[name]), name

    def test_weights_go_both_ways_and_give_the_same_logits(self, case: Any) -> None:
        make, arguments, shape = case
        ours = make(**arguments)
        theirs = getattr(mlp_mixer_pytorch, make.__name__)(**arguments)
        for parameter in theirs.parameters():
            nn.init.normal_(parameter, std=0.3)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        image = torch.randn(3, *shape)
        with torch.no_grad():
            expected = theirs.eval()(image)
            # Two programs: rounding may differ by thread and shape, a wrong GELU by 1e-4.
            close = {"rtol": 0, "atol": 2e-6 * expected.abs().max().item()}
            torch.testing.assert_close(ours.eval()(image), expected, **close)
            torch.manual_seed(7)
            in_training = ours.train()(image)
            torch.manual_seed(7)
            # Dropout falls in the same places.
            torch.testing.assert_close(in_training, theirs.train()(image), **close)


@pytest.mark.parametrize("name", ["lucidrains_a", "lucidrains_b"])
@DEFAULTS
def test_the_originals_checkpoints_give_the_originals_logits(
    shared: Path, name: str
) -> None:
    folder = shared / "golden" / name
    meta = json.loads((folder / "meta.json").read_text())
    model = MLPMixer(
        image_size=tuple(meta["image_size"]),
        channels=meta["in_channels"],
        patch_size=meta["patch_size"],
        dim=meta["hidden_dim"],
        depth=meta["num_blocks"],
        num_classes=meta["num_classes"],
    )
    model.load_state_dict(
        torch.load(folder / "state_dict.pth", weights_only=True), strict=True
    )
    with np.load(folder / "io.npz") as arrays, torch.no_grad():
        image = torch.from_numpy(arrays["input_nhwc"]).permute(0, 3, 1, 2)
        # Measured: 1e-7, between machines; beside the original on one they are equal
        # (above).
        torch.testing.assert_close(
            model.eval()(image), torch.from_numpy(arrays["logits"]), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    ("make", "arguments"), [(MLPMixer, SMALL), (MLPMixer3D, VIDEO)]
)
def test_the_default_expansions_warn_and_the_advice_does_not(
    make: Any, arguments: dict[str, Any]
) -> None:
    with pytest.warns(
        UserWarning, match="expansion_factor=0.5 and expansion_factor_token=4, or use"
    ) as caught:
        model = make(**arguments)
    assert caught[0].filename == __file__
    assert (model[2][0].fn[0].out_channels, model[2][1].fn[0].out_features) == (40, 5)
    advised = make(**arguments, **PAPER)
    assert (advised[2][0].fn[0].out_channels, advised[2][1].fn[0].out_features) == (
        5,
        40,
    )


def test_the_advice_is_the_papers_s16() -> None:
    with torch.device("meta"):
        model = MLPMixer(
            image_size=224,
            channels=3,
            patch_size=16,
            dim=512,
            depth=8,
            num_classes=1000,
            **PAPER,
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == 18_528_264


@pytest.mark.parametrize(
    ("make", "changes", "sentence"),
    [
        (
            MLPMixer,
            {"image_size": (12, 14)},
            "12x14 is not divisible by the patch size 4",
        ),
        (
            MLPMixer,
            {"image_size": (12, 12, 3)},
            r"must be the side or \(height, width\), got \(12, 12, 3\)",
        ),
        (MLPMixer, {"depth": 0}, "num_blocks must be at least 1"),
        (MLPMixer, {"num_classes": 0}, "num_classes must be at least 1, got 0"),
        (MLPMixer, {"patch_size": 0}, "patch_size must be at least 1"),
        (
            MLPMixer3D,
            {"time_size": 5},
            "time_size 5 is not divisible by time_patch_size 2",
        ),
        (
            MLPMixer3D,
            {"time_patch_size": 0},
            "time_size 6 is not divisible by time_patch_size 0",
        ),
    ],
)
def test_what_cannot_be_built(
    make: Any, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        make(**((SMALL if make is MLPMixer else VIDEO) | PAPER | changes))


@pytest.mark.parametrize(
    "shape", [(2, 3, 16, 12), (2, 1, 12, 12), (2, 12, 12, 3), (3, 12, 12)]
)
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"\(batch, 3, 12, 12\)"):
        MLPMixer(**SMALL, **PAPER)(torch.zeros(shape))


def test_positional_arguments_are_refused_as_by_the_original() -> None:
    with pytest.raises(TypeError):
        MLPMixer(12, 3, 4, 10, 2, 5)  # type: ignore[misc]
