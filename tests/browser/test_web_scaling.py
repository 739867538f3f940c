"""The exported page scales pictures as `Preprocess` does: both in one test, value by value."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from playwright.sync_api import Browser, Page

from mlp_mixer import Preprocess
from mlp_mixer.inference.results import reached
from mlp_mixer.weights.scores import SCORES

# Older versions scale the columns first of all but very tall images.
OTHER_ORDER = int(PIL.__version__.split(".")[0]) < 13


@pytest.fixture(scope="module")
def page(chromium: Browser) -> Iterator[Page]:
    """An empty page that knows the functions of the worker."""
    context = chromium.new_context()
    page = context.new_page()
    folder = resources.files("mlp_mixer.exporting.web")
    for name in ("resample.js", "answers.js"):
        page.add_script_tag(content=(folder / name).read_text(encoding="utf-8"))
    yield page
    context.close()


def scaled(
    page: Page, image: np.ndarray[Any, Any], record: Preprocess
) -> list[np.ndarray[Any, Any]]:
    """What the page makes of an image: (H, W, C) in 0-255, and the network's input."""
    height, width, channels = image.shape
    given = [base64.b64encode(image.tobytes()).decode(), height, width, channels]
    found = page.evaluate(
        """([text, height, width, channels, record]) => {
            const data = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const made = fit({ data, height, width, channels }, record);
            return [Array.from(made.data), Array.from(normalized(made, record))];
        }""",
        [*given, dataclasses.asdict(record)],
    )
    height, width = record.image_size
    pixels = np.array(found[0]).reshape(height, width, channels)
    return [pixels, np.array(found[1]).reshape(channels, height, width)]


WAYS = [
    {"interpolation": "bicubic"},
    {"interpolation": "bilinear", "crop_pct": 1.0},
    {"interpolation": "area", "crop_pct": 0.9},
    {"interpolation": "nearest"},
    {"resize": "resize", "crop_pct": 0.875},
    {"interpolation": "bilinear", "resampler": "vit_jax", "resize": "resize"},
    {"interpolation": "bilinear", "resampler": "big_vision"},
    {"interpolation": "area", "resampler": "big_vision", "crop_pct": 0.7},
    {"interpolation": "bicubic", "resampler": "opencv", "crop_pct": 0.95},
    {"interpolation": "bilinear", "resampler": "opencv"},
]
SIZES = [
    (17, 23), (64, 64), (97, 40), (40, 97), (9, 8), (5, 130), (130, 5), (1, 1), (2, 3),
    (31, 29), (20, 28), (211, 118), (37, 401),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(map(str, way.values())))
def test_every_value_is_the_same(page: Page, way: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        channels = (3, 1)[number % 2]
        image = random.integers(0, 256, (*size, channels), dtype=np.uint8)
        # Large areas of one colour come out as they are.
        image[: size[0] // 2, : size[1] // 2] = 255
        record = Preprocess((16, 24), channels, mean=(0.45,), std=(0.22,), **way)
        pixels, values = scaled(page, image, record)
        ours = record(image).numpy()
        if OTHER_ORDER and record.resampler == "pillow":
            # Between the two steps values are cut to 0-255, and bicubic overshoots.
            apart = np.abs(pixels - record.fit(image))
            assert apart.max() <= (12 if record.interpolation == "bicubic" else 1)
            assert (apart > 1).mean() < 0.1
            continue
        if record.resampler != "vit_jax":
            np.testing.assert_array_equal(pixels, record.fit(image), str(size))
        np.testing.assert_allclose(values, ours, rtol=0, atol=5e-7, err_msg=str(size))


def test_without_scaling_another_size_is_refused(page: Page) -> None:
    record = Preprocess((4, 6), resize="none")
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    np.testing.assert_array_equal(scaled(page, image, record)[0], image)
    with pytest.raises(
        Exception, match="3 × 4 pixels, and this network takes only 6 × 4"
    ):
        scaled(page, image[:, :3], record)


@pytest.mark.parametrize("kind", list(SCORES))
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_logits_become_the_same_answer(page: Page, kind: str, classes: int) -> None:
    logits = torch.randn(classes) * 20
    names = [f"class {number}" for number in range(classes)]
    scores = SCORES[kind](logits)
    thresholds = [0.3 + 0.1 * number for number in range(classes)]
    about = {"labels": names, "scores": kind, "thresholds": thresholds}
    call = "([logits, about]) => answerOf(Float32Array.from(logits), about, 5)"
    found = page.evaluate(call, [logits.tolist(), about])
    order = logits.argsort(descending=True)[:5].tolist()
    assert [one["number"] for one in found["top"]] == order
    for one in found["top"]:
        assert one["score"] == pytest.approx(scores[one["number"]].item(), abs=1e-6)
    every = logits.argsort(descending=True, stable=True).tolist()
    ours = reached(every, scores, thresholds, names)
    assert [one["name"] for one in found["labels"]] == [one.name for one in ours]
    plain = page.evaluate(call, [logits.tolist(), {**about, "thresholds": None}])
    assert plain["labels"] is None
