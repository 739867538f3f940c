"""RandAugment and stochastic depth as timm has them, by timm's own code."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from scipy.special import ndtri
from timm.data import auto_augment, create_transform

from mlp_mixer.images import randaugment
from mlp_mixer.images.augment import augment_batch, draws_needed
from mlp_mixer.images.operations import Moving, operate
from mlp_mixer.images.policies import apply_policy
from mlp_mixer.images.randaugment import SLOT, TIMM, timm_plan
from mlp_mixer.images.settings import Augment
from mlp_mixer.models.layers import drop_path_rates
from mlp_mixer.recipes import get_recipe

IMAGENET = (0.485, 0.456, 0.406)
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# timm's names of our operations.
NAMES = {
    "Posterize": "PosterizeIncreasing",
    "Solarize": "SolarizeIncreasing",
    "Color": "ColorIncreasing",
    "Contrast": "ContrastIncreasing",
    "Brightness": "BrightnessIncreasing",
    "Sharpness": "SharpnessIncreasing",
    "TranslateX": "TranslateXRel",
    "TranslateY": "TranslateYRel",
}
MIDDLE = 0.5  # a draw of the magnitude's noise that is none


@pytest.fixture(autouse=True)
def _posterize_of_older_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's largest magnitude keeps 0 bits, and Pillow 13 raises ValueError at that."""

    def posterize(picture: Image.Image, bits: int) -> Image.Image:
        mask = ~(2 ** (8 - bits) - 1)
        table = [value & mask for value in range(256)]
        return picture.point(table * len(picture.getbands()))

    monkeypatch.setattr(auto_augment.ImageOps, "posterize", posterize)


@pytest.fixture(scope="module", params=["made", "photos"])
def pictures(request: pytest.FixtureRequest) -> list[np.ndarray]:
    """Pictures uint8 (H, W, 3): noise over a slope, or photographs."""
    if request.param == "made":
        rng = np.random.default_rng(0)
        slope = np.linspace(20, 180, 53)[None, :, None]
        return [(slope + rng.integers(0, 70, (37, 53, 3))).astype(np.uint8)]
    shared: Path = request.getfixturevalue("shared")
    files = sorted((shared / "data/photos/imagenet_samples").glob("*.JPEG"))[:3]
    if not files:
        pytest.skip("no photos among the test data")
    photos = [Image.open(file).convert("RGB").resize((160, 120)) for file in files]
    return [np.asarray(photo) for photo in photos]


def recipe_of_timm(
    layers: int, magnitude: float, mean: tuple[float, ...], interpolation: str
) -> Any:
    """The RandAugment that timm's own function makes for a training run of DeiT."""
    transform = create_transform(
        224,
        is_training=True,
        auto_augment=f"rand-m{int(magnitude)}-n{layers}-mstd0.5-inc1",
        interpolation=interpolation,
        mean=mean,
    )
    (found,) = [
        part
        for part in transform.transforms
        if isinstance(part, auto_augment.RandAugment)
    ]
    return found


class Dealt:
    """Deals one image's numbers to timm in the order in which it asks."""

    def __init__(self, draws: np.ndarray) -> None:
        self.rows = draws.reshape(-1, SLOT)
        self.layer = -1
        self.asked = 0

    def choice(self, operations: Any, count: int, **_: Any) -> list[Any]:
        assert count == len(self.rows)
        return [operations[int(which * len(operations))] for which, *_ in self.rows]

    def random(self) -> float:
        # For each layer first whether it acts; the next question is about the sign.
        if self.asked == 0:
            self.layer += 1
        acts, sign = self.rows[self.layer, 1:3]
        answer = sign if self.asked else acts
        self.asked = 0 if self.asked or acts > 0.5 else 1
        return float(answer)

    def gauss(self, mean: float, deviation: float) -> float:
        name = TIMM[int(self.rows[self.layer, 0] * len(TIMM))]
        if name in ("AutoContrast", "Equalize", "Invert", "Solarize", "SolarizeAdd"):
            self.asked = 0  # it has no direction and will not ask
        if name == "Posterize":
            self.asked = 0
        return float(mean + deviation * ndtri(self.rows[self.layer, 3]))


def by_timm(
    transform: Any, image: np.ndarray, draws: np.ndarray, monkeypatch: Any
) -> np.ndarray:
    dealt = Dealt(draws)
    with monkeypatch.context() as patch:
        patch.setattr(auto_augment, "random", dealt)
        # Its own name for NumPy: NumPy itself stays as it is.
        patch.setattr(auto_augment, "np", SimpleNamespace(random=dealt))
        return np.asarray(transform(Image.fromarray(image)))


def test_the_operations_are_timm_s_in_its_order() -> None:
    transform = recipe_of_timm(2, 9, IMAGENET, "bicubic")
    assert [op.name for op in transform.ops] == [NAMES.get(n, n) for n in TIMM]
    for op in transform.ops:
        assert (op.prob, op.magnitude, op.magnitude_std) == (0.5, 9, 0.5)
        assert op.kwargs["fillcolor"] == (124, 116, 104)
        assert op.kwargs["resample"] == FILTERS["bicubic"]


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("magnitude", [0.0, 2.5, 6.0, 9.0, 10.0])
@pytest.mark.parametrize("name", TIMM)
def test_pixels_of_each_operation_are_timm_s(
    name: str,
    magnitude: float,
    interpolation: str,
    pictures: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = TIMM.index(name)
    for sign in (0.2, 0.8):
        op = auto_augment.AugmentOp(
            NAMES.get(name, name),
            prob=1.0,
            magnitude=magnitude,
            hparams={
                "img_mean": (124, 116, 104),
                "interpolation": FILTERS[interpolation],
            },
        )
        stub = SimpleNamespace(random=lambda answer=sign: answer)
        monkeypatch.setattr(auto_augment, "random", stub)
        draws = np.array([(number + 0.5) / len(TIMM), 0.1, sign, MIDDLE])
        for image in pictures:
            (step,) = timm_plan(draws, image.shape[:2], 1, magnitude)
            moving = Moving((124, 116, 104), FILTERS[interpolation])
            ours = np.asarray(operate(Image.fromarray(image), step, moving))
            theirs = np.asarray(op(Image.fromarray(image)))
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("layers", "magnitude", "mean", "interpolation"),
    [
        (2, 9, IMAGENET, "bicubic"),
        (1, 7, (0.5, 0.5, 0.5), "bilinear"),
        (3, 0, (0.0, 1.0, 0.25), "bicubic"),
        (2, 10, IMAGENET, "bilinear"),
    ],
)
def test_the_whole_policy_is_timm_s(
    layers: int,
    magnitude: float,
    mean: tuple[float, ...],
    interpolation: Any,
    pictures: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """timm's object of its own making, dealt the numbers that ours is given."""
    transform = recipe_of_timm(layers, magnitude, mean, interpolation)
    rng = np.random.default_rng(layers)
    changed = 0
    for image in pictures:
        for _ in range(40):
            draws = rng.random(SLOT * layers)
            theirs = by_timm(transform, image, draws, monkeypatch)
            ours = apply_policy(
                image,
                draws,
                "randaugment_timm",
                layers,
                magnitude,
                mean=mean,
                interpolation=interpolation,
            )
            np.testing.assert_array_equal(ours, theirs)
            changed += not np.array_equal(ours, image)
    share = 1 - 0.5**layers
    assert 0.6 * share < changed / (40 * len(pictures)) <= 1


def test_magnitudes_have_timm_s_spread_and_stay_in_range() -> None:
    rotate = (TIMM.index("Rotate") + 0.5) / len(TIMM)
    noise = (np.arange(2000) + 0.5) / 2000
    levels = []
    for own in noise:
        (step,) = timm_plan(np.array([rotate, 0.0, 0.0, own]), (32, 32), 1, 5.0)
        levels.append(step.values[0] / 3)
    assert np.mean(levels) == pytest.approx(5.0, abs=1e-6)
    assert np.std(levels) == pytest.approx(0.5, abs=5e-3)
    for extreme in (0.0, 1 - 2**-53):
        for magnitude in (0.0, 10.0):
            draws = np.array([rotate, 0.0, 0.0, extreme])
            (step,) = timm_plan(draws, (32, 32), 1, magnitude)
            assert 0 <= step.values[0] <= 30


def test_a_layer_acts_on_half_of_the_images() -> None:
    acts = (np.arange(1000) + 0.5) / 1000
    counts = [
        len(timm_plan(np.array([0.5, own, 0.1, MIDDLE]), (8, 8), 1)) for own in acts
    ]
    assert sum(counts) == 500


def test_gray_pictures_are_filled_with_their_one_mean() -> None:
    image = np.full((20, 20, 1), 255, np.uint8)
    shift = (TIMM.index("TranslateX") + 0.5) / len(TIMM)
    draws = np.array([shift, 0.0, 0.0, MIDDLE])
    moved = apply_policy(image, draws, "randaugment_timm", 1, 10, mean=(0.25,))
    assert moved.shape == image.shape
    assert moved.min() == 64


def test_the_mean_of_the_run_and_its_filter_arrive() -> None:
    """`augment_batch` hands on what the recipe says."""
    images = torch.full((40, 3, 16, 16), 255, dtype=torch.uint8)
    augment = Augment(
        policy="randaugment_timm", policy_magnitude=9, interpolation="bicubic"
    )
    rng = np.random.default_rng(1)
    draws = torch.from_numpy(rng.random((40, draws_needed(augment))))
    changed = augment_batch(images, draws, augment, mean=IMAGENET)
    own = draws[:, -2 * SLOT :].numpy()
    for result, numbers in zip(changed, own, strict=True):
        expected = apply_policy(
            images[0].permute(1, 2, 0).numpy(),
            numbers,
            "randaugment_timm",
            2,
            9,
            mean=IMAGENET,
            interpolation="bicubic",
        )
        np.testing.assert_array_equal(result.permute(1, 2, 0), expected)
    assert (changed == 124).any()


def test_deit_has_it() -> None:
    config = get_recipe("deit_b16")
    augment = config.augment
    assert (augment.policy, augment.policy_magnitude) == ("randaugment_timm", 9)
    assert (augment.policy_layers, augment.interpolation) == (2, "bicubic")
    assert randaugment.MOST_OF_TIMM == auto_augment._LEVEL_DENOM
    assert config.preprocess.mean == IMAGENET
    assert (config.model.drop_path, config.model.drop_path_rule) == (0.1, "deit")
    # An average of the weights is an option: DeiT's published numbers have none.
    assert config.train.ema == 0


@pytest.mark.parametrize(("depth", "rate"), [(12, 0.1), (1, 0.1), (5, 0.3)])
def test_stochastic_depth_rises_as_in_timm_s_deit(depth: int, rate: float) -> None:
    network = timm.create_model(
        "deit_tiny_patch16_224", depth=depth, embed_dim=12, drop_path_rate=rate
    )
    rates = [getattr(b.drop_path1, "drop_prob", 0.0) for b in network.blocks]
    assert drop_path_rates("deit", rate, depth) == pytest.approx(rates, abs=1e-7)
    scaled = [
        b.drop_path1.scale_by_keep
        for b in network.blocks
        if hasattr(b.drop_path1, "scale_by_keep")
    ]
    assert all(scaled)
