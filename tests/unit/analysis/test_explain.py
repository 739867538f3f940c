"""Maps against their definitions, neighbours against brute force, and the picture of
both.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mlp_mixer import Checkpoint, MlpMixer, Preprocess, UserError, create_model
from mlp_mixer.analysis.explain import METHODS, Method, draw, laid_over, maps, nearest
from mlp_mixer.data.image_set import ArraySet

SMALL = {
    "num_blocks": 2,
    "hidden_dim": 8,
    "channels_mlp_dim": 16,
    "patch_size": 4,
    "num_classes": 3,
}


def network(
    name: str = "mixer_nano4", *, std: float = 0.4, **fields: object
) -> MlpMixer:
    model = create_model(name, **(SMALL | {"image_size": (16, 16)} | fields)).eval()  # type: ignore[arg-type]
    for key, parameter in model.named_parameters():
        nn.init.normal_(
            parameter, float("norm" in key and key.endswith(("weight", "alpha"))), std
        )
    return model


def linear(patch_size: int = 4) -> MlpMixer:
    """A network that is linear in the image: blocks that add nothing, no norm before
    pooling.
    """
    model = network(patch_size=patch_size, final_norm=False)
    for block in model.blocks:
        for mlp in (block.mlp_tokens, block.mlp_channels):  # type: ignore[union-attr]
            nn.init.zeros_(mlp.fc2.weight)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(mlp.fc2.bias)  # type: ignore[union-attr, arg-type]
    return model


def mean_colour(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True).expand_as(x)


@pytest.mark.parametrize(
    "name", ["mixer_nano4", "grouped_nano4", "gmixer_12", "resmlp_12", "gmlp_ti16"]
)
@pytest.mark.parametrize(
    ("size", "channels", "P"), [((16, 16), 3, 4), ((8, 12), 1, 2), ((9, 6), 2, 3)]
)
def test_gradients_sum_to_the_difference_in_the_logit(
    name: str, size: tuple[int, int], channels: int, P: int
) -> None:
    """The completeness axiom, as far as promised, and rounding."""
    model = network(name, std=0.2, image_size=size, in_channels=channels, patch_size=P)
    for _ in range(3):
        x = torch.randn(1, channels, *size)
        with torch.inference_mode():
            change = (model(x) - model(mean_colour(x)))[0]
        for label in range(3):
            heat = maps(model, x, label, "gradient")
            assert (heat.shape, heat.dtype) == (size, np.float32)
            assert (
                abs(heat.sum() - change[label].item())
                < 0.0011 + 0.0101 * change[label].abs().item()
            )
        assert change.abs().max() > 0.005


@pytest.mark.parametrize("P", [1, 4])
def test_gradients_of_a_linear_network_are_its_weights(P: int) -> None:
    """Exactly: pixel times weight for single pixels, their mean in squares of half a
    patch.
    """
    model = linear(P)
    x = torch.randn(1, 3, 16, 16)
    kernel = (
        torch.einsum(
            "c,cihw->ihw", model.head.weight[2], model.stem.proj.weight
        ).detach()
        / (16 // P) ** 2
    )
    by_pixel = (
        ((x - mean_colour(x))[0] * kernel.tile(1, 16 // P, 16 // P)).sum(dim=0).numpy()
    )
    if P == 4:
        by_pixel = (
            by_pixel.reshape(8, 2, 8, 2)
            .mean(axis=(1, 3))
            .repeat(2, axis=0)
            .repeat(2, axis=1)
        )
    np.testing.assert_allclose(maps(model, x, 2, "gradient"), by_pixel, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "P", "window"),
    [
        ((16, 16), 4, (1, 1)),
        ((13, 12), 1, (2, 2)),
        ((36, 12), 4, (2, 1)),
        ((18, 34), 2, (2, 3)),
    ],
)
@torch.inference_mode()
def test_occlusion_is_what_a_loop_over_windows_finds(
    size: tuple[int, int], P: int, window: tuple[int, int]
) -> None:
    model = network(image_size=size, patch_size=P)
    x = torch.randn(1, 3, *size)
    (h, w) = model.config.grid
    (high, wide) = window
    falls = [[[] for _ in range(w)] for _ in range(h)]  # type: ignore[var-annotated]
    for i in range(h - high + 1):
        for j in range(w - wide + 1):
            rows = slice(i * P, (i + high) * P)
            columns = slice(j * P, (j + wide) * P)
            covered = x.clone()
            covered[..., rows, columns] = mean_colour(x)[..., rows, columns]
            fall = (model(x).log_softmax(1) - model(covered).log_softmax(1))[
                0, 1
            ].item()
            for a in range(i, i + high):
                for b in range(j, j + wide):
                    falls[a][b].append(fall)
    expected = (
        np.array([[np.mean(cell) for cell in row] for row in falls])
        .repeat(P, axis=0)
        .repeat(P, axis=1)
    )
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(maps(model, x, 1, "occlusion"), expected, atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_flat_image_has_nothing_to_show(method: Method) -> None:
    x = torch.full((1, 3, 16, 16), 0.25)
    np.testing.assert_allclose(maps(network(), x, 0, method), 0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_maps_leave_no_trace(method: Method) -> None:
    """Not in the weights, not in the image, and also under inference mode, as a server
    runs.
    """
    model = network()
    x = torch.randn(1, 3, 16, 16)
    before = x.clone()
    outside = maps(model, x, 0, method)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(x, before)
    with torch.inference_mode():
        np.testing.assert_array_equal(maps(model, x * 1, 0, method), outside)


def test_what_cannot_be_mapped_is_said() -> None:
    model = network()
    x = torch.randn(1, 3, 16, 16)
    with pytest.raises(
        UserError, match="unknown method 'occlude'; did you mean 'occlusion'"
    ):
        maps(model, x, 0, "occlude")  # type: ignore[arg-type]
    for label, images in ((3, x), (-1, x), (0, torch.cat([x, x]))):
        with pytest.raises(
            UserError, match=f"one of 3 classes, got {len(images)} and {label}"
        ):
            maps(model, images, label, "gradient")
    with pytest.raises(UserError, match="one of 0 classes"):
        maps(network(num_classes=0), x, 0, "occlusion")
    for method in METHODS:
        with pytest.raises(UserError, match="takes images of shape"):
            maps(model, torch.randn(1, 3, 8, 8), 0, method)


def checkpoint(**fields: object) -> Checkpoint:
    return Checkpoint(
        network(**fields), Preprocess((16, 16), crop_pct=1.0), ("x", "y", "z")
    )  # type: ignore[arg-type]


def test_neighbours_are_those_of_brute_force() -> None:
    known = checkpoint(num_classes=0)  # needs no head
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 18, 3), dtype=np.uint8)
    images = ArraySet(pixels, np.arange(40) % 4, ["a", "b", "c", "d"])
    x = known.preprocess(pixels[7])[None]
    with torch.inference_mode():
        features = (
            known.model(torch.stack([known.preprocess(each) for each in pixels]))
            .double()
            .numpy()
        )
    cosines = (
        features
        @ features[7]
        / np.linalg.norm(features, axis=1)
        / np.linalg.norm(features[7])
    )
    order = np.argsort(-cosines)[:5]
    found = nearest(known, x, images)
    assert order[0] == 7
    assert [label for label, _, _ in found] == ["abcd"[i % 4] for i in order]
    assert [cosine for _, cosine, _ in found] == pytest.approx(cosines[order], abs=1e-5)
    for (_, _, shown), i in zip(found, order, strict=True):
        assert np.array_equal(shown, known.preprocess.fit(pixels[i]))
    assert len(nearest(known, x, images.subset([3, 4]))) == 2


def test_red_speaks_for_and_blue_against_and_nothing_stays_gray() -> None:
    pixels = np.full((2, 2, 3), (10, 110, 210), np.uint8)
    (plus, minus), (little, none) = laid_over(
        pixels, np.array([[2, -2], [0.02, 0]], np.float32)
    ).astype(int)
    assert plus[0] > plus[2] + 50
    assert minus[2] > minus[0] + 50
    assert none.tolist() == [182] * 3  # 127 + 110 / 2
    assert np.abs(little - none).max() < 12
    assert (laid_over(pixels, np.zeros((2, 2))) == 182).all()


def test_the_picture() -> None:
    rng = np.random.default_rng(0)
    heat: dict[Method, np.ndarray] = {
        method: rng.normal(size=(16, 16)) for method in METHODS
    }
    near = [("a", 0.5, rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))] * 5
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    odd = (
        "a name\nof \udcff two lines and \U0001f40c more letters than any picture is wide "
        * 3
    )
    whole = draw(
        pixels, heat, odd, [(odd, 1.0), ("b", 0.0)], [(odd, 1.0, pixels), *near[1:]]
    )
    assert (whole.dtype, whole.shape[1:]) == (np.uint8, (944, 3))
    assert (whole[:, -19:] == (250, 250, 248)).all()  # nothing runs over the edge
    one = draw(pixels, {"occlusion": heat["occlusion"]}, "a", [("a", 1.0)], [])
    assert one.shape[1] == 636
    assert one.shape[0] < whole.shape[0]
    seen = whole[44 : 44 + 288, 20 : 20 + 288]
    assert np.array_equal(seen[9::18, 9::18], pixels)
    assert np.array_equal(
        whole[44:332, 328:616][9::18, 9::18], laid_over(pixels, heat["occlusion"])
    )
    bars = (whole == (103, 132, 168)).all(axis=2).sum(axis=1)
    assert bars.max() == 289  # a score of 1 is as wide as an image


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_that_are_no_rgb(channels: int) -> None:
    model = network(in_channels=channels)
    preprocess = dataclasses.replace(
        Preprocess((16, 12)), channels=channels, mean=(0.5,), std=(0.5,)
    )
    pixels = preprocess.fit(
        np.random.default_rng(0).integers(0, 256, (30, 30, channels), dtype=np.uint8)
    )
    heat = maps(model, torch.randn(1, channels, 16, 16), 0, "occlusion")[:, :12]
    shown = draw(pixels, {"occlusion": heat}, "a", [("a", 0.5)], [("b", 0.1, pixels)])[
        44:332, 20:236
    ]
    assert np.array_equal(shown[9::18, 9::18, 0], pixels.mean(axis=2).round())
