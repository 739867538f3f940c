"""The mean corruption error against numbers computed by hand and by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import UserError
from mlp_mixer.data.registry import open_dataset
from mlp_mixer.evaluation.corruptions import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    SEVERITIES,
    condition_of,
    corruption_errors,
)
from mlp_mixer.evaluation.splits import EvalSplit, _by_protocol
from mlp_mixer.images.preprocess import Preprocess

ROOT = "imagenet_c:/some/where"

# torchvision's ResNet-50: top-1 in percent and corruption error, as another program
# reports them for the files of ImageNet-C.
RESNET_50 = {
    "brightness": (68.02, 56.64),
    "contrast": (39.06, 71.43),
    "defocus_blur": (38.75, 74.71),
    "elastic_transform": (45.25, 84.75),
    "fog": (45.83, 66.11),
    "frost": (38.14, 74.84),
    "gaussian_noise": (29.29, 79.77),
    "glass_blur": (26.79, 88.61),
    "impulse_noise": (23.81, 82.58),
}

# AlexNet at severities 1 to 5, in percent.
ALEXNET = {
    "gaussian_noise": (69.528, 82.542, 93.554, 98.138, 99.452),
    "glass_blur": (64.308, 75.054, 88.806, 91.622, 93.344),
    "snow": (71.726, 88.392, 86.468, 91.87, 94.952),
    "brightness": (45.14, 48.502, 54.048, 62.166, 72.44),
}


def everywhere(top1: float, *more: str) -> dict[str, float]:
    names = [*ALEXNET_ERRORS, *more]
    return {f"{ROOT}/{name}/{k}": top1 for name in names for k in SEVERITIES}


def test_there_are_fifteen() -> None:
    assert len(ALEXNET_ERRORS) == 15


@pytest.mark.parametrize("name", ALEXNET)
def test_alexnet_s_errors_are_means_over_the_severities(name: str) -> None:
    mean = sum(ALEXNET[name]) / 500
    assert ALEXNET_ERRORS[name] == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize("name", RESNET_50)
def test_another_program_s_corruption_errors(name: str) -> None:
    top1, error = RESNET_50[name]
    measured = {f"{name}/{k}": top1 / 100 for k in SEVERITIES}
    found = corruption_errors(measured)
    # Both numbers have two digits after the point.
    assert 100 * found.errors[name] == pytest.approx(error, abs=0.011)
    assert found.mce is None
    assert len(found.missing) == 70


def test_a_model_that_is_never_right_by_hand() -> None:
    """The mean of the 15 reciprocals 1 / 0.886428 = 1.128123, ..., added by hand."""
    reciprocals = (
        1.128123, 1.117983, 1.083846, 1.219691, 1.210261,
        1.272349, 1.252568, 1.153647, 1.209816, 1.220518,
        1.771190, 1.172053, 1.547853, 1.393068, 1.648805,
    )  # fmt: skip
    expected = sum(reciprocals) / 15
    assert corruption_errors(everywhere(0.0)).mce == pytest.approx(expected, abs=2e-6)
    # Half as many errors are half the mCE; no error at all is none.
    half = corruption_errors(everywhere(0.5)).mce
    assert half == pytest.approx(expected / 2, abs=2e-6)
    assert corruption_errors(everywhere(1.0)).mce == 0


def test_severities_are_summed_before_they_are_divided() -> None:
    """Not the mean of five quotients by AlexNet's errors of each severity."""
    accuracies = (0.9, 0.7, 0.5, 0.3, 0.1)
    measured = {f"fog/{k}": a for k, a in zip(SEVERITIES, accuracies, strict=True)}
    found = corruption_errors(measured)
    assert found.errors == pytest.approx({"fog": 0.5 / 0.819324})


def test_alexnet_has_an_mce_of_one() -> None:
    measured = {
        f"{name}/{k}": 1 - error
        for name, error in ALEXNET_ERRORS.items()
        for k in SEVERITIES
    }
    assert corruption_errors(measured).mce == pytest.approx(1)


# The relative mCE


def test_alexnet_s_clean_error_is_that_of_torchvision_s_weights() -> None:
    weights = pytest.importorskip("torchvision.models").AlexNet_Weights.IMAGENET1K_V1
    accuracy = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert 1 - accuracy / 100 == pytest.approx(ALEXNET_CLEAN_ERROR, abs=1e-4)


def test_relative_errors_by_hand() -> None:
    """Errors grow from 0.25 to 0.65 everywhere, by 0.4.

    AlexNet's grow by 0.886428 - 0.4348 = 0.451628 for Gaussian noise, ..., and 0.4 over
    that is 0.885685, ...: a pocket calculator's numbers.
    """
    relative = (
        0.885685, 0.870193, 0.819941, 1.038745, 1.021795,
        1.139121, 1.100231, 0.925892, 1.021002, 1.040247,
        3.081854, 0.956014, 1.893437, 1.413228, 2.329645,
    )  # fmt: skip
    found = corruption_errors(everywhere(0.35), 0.75)
    assert list(found.relative.values()) == pytest.approx(relative, abs=2e-6)
    assert found.relative_mce == pytest.approx(sum(relative) / 15, abs=2e-6)
    assert found.mce == corruption_errors(everywhere(0.35)).mce


def test_alexnet_s_relative_mce_is_one_and_an_unmoved_model_s_is_zero() -> None:
    of_alexnet = {
        f"{name}/{k}": 1 - error
        for name, error in ALEXNET_ERRORS.items()
        for k in SEVERITIES
    }
    found = corruption_errors(of_alexnet, 1 - ALEXNET_CLEAN_ERROR)
    assert found.relative_mce == pytest.approx(1)
    assert corruption_errors(everywhere(0.625), 0.625).relative_mce == 0
    # Better on corrupted images than on clean ones is less than nothing.
    better = corruption_errors(everywhere(0.8), 0.6).relative_mce
    assert better is not None
    assert better < 0


def test_what_is_missing_leaves_no_relative_mce() -> None:
    measured = everywhere(0.5, "extra/saturate")
    assert corruption_errors(measured).relative == {}
    assert corruption_errors(measured).relative_mce is None
    del measured[f"{ROOT}/fog/1"]
    found = corruption_errors(measured, 0.7)
    assert found.relative_mce is None
    assert len(found.relative) == 14
    assert not {"fog", "saturate"} & set(found.relative)


@pytest.mark.parametrize("clean", [-0.1, 1.01, 76.4, float("nan")])
def test_an_accuracy_on_clean_images_is_a_fraction(clean: float) -> None:
    with pytest.raises(UserError, match="on clean images is .* a fraction from 0 to 1"):
        corruption_errors(everywhere(0.5), clean)


def test_extra_corruptions_do_not_count() -> None:
    plain = corruption_errors(everywhere(0.5))
    measured = everywhere(0.5, "extra/saturate") | {
        f"{ROOT}/extra/spatter/{k}": 1.0 for k in SEVERITIES
    }
    found = corruption_errors(measured)
    assert found.mce == plain.mce
    assert found.extra == {"saturate": 0.5, "spatter": 0.0}


def test_one_missing_condition_and_there_is_no_mce() -> None:
    measured = everywhere(0.5)
    del measured[f"{ROOT}/snow/4"]
    found = corruption_errors(measured)
    assert found.mce is None
    assert found.missing == ("snow/4",)
    assert "snow" not in found.errors
    assert len(found.errors) == 14


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        ({"fog": 0.5}, "no condition of ImageNet-C"),
        ({"fog/6": 0.5}, "no condition of ImageNet-C"),
        ({"fog/n01440764": 0.5}, "no condition of ImageNet-C"),
        ({"fog/1": 50.0}, "expected a fraction from 0 to 1"),
        ({"fog/1": float("nan")}, "expected a fraction from 0 to 1"),
        ({"a/fog/1": 0.5, "b/fog/1": 0.5}, "fog/1 was measured twice"),
    ],
)
def test_refusals(measured: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        corruption_errors(measured)


def test_where_a_condition_lies_does_not_matter() -> None:
    for place in ("fog/3", "imagenet_c:fog/3", "imagenet_c:/a b/weather/fog/3"):
        assert condition_of(place) == ("fog", "3")


# The images


@pytest.fixture
def fog(tmp_path: Path) -> EvalSplit:
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    for wnid in ("n01440764", "n01443537"):
        folder = tmp_path / "fog" / "3" / wnid
        folder.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / "a.png")
    test = open_dataset(f"imagenet_c:{tmp_path}/fog/3").test
    assert test is not None
    return EvalSplit(test, "test")


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess((224, 224)),
        Preprocess((224, 224), crop_pct=0.95, resize="resize"),
        Preprocess((224, 224), interpolation="area", resampler="big_vision"),
    ],
    ids=["timm", "squash", "google"],
)
def test_a_network_of_224_pixels_takes_them_as_they_are(
    fog: EvalSplit, preprocess: Preprocess
) -> None:
    """CenterCrop(224) of files of 224 pixels, which is what their authors do."""
    image = fog.images.image(0)
    assert not np.array_equal(preprocess.fit(image), image)
    chosen, as_is = _by_protocol(fog, preprocess)
    assert np.array_equal(as_is.fit(image), image)
    assert chosen.split == "test, 224 x 224 pixels as they are"
    expected = preprocess.normalize(torch.from_numpy(image.copy()).permute(2, 0, 1))
    assert torch.equal(as_is(image), expected)


@pytest.mark.parametrize("size", [192, 384])
def test_another_network_has_them_resized_and_says_so(
    fog: EvalSplit, size: int
) -> None:
    preprocess = Preprocess((size, size))
    chosen, own = _by_protocol(fog, preprocess)
    assert own == preprocess
    assert chosen.split == "test, 224 x 224 pixels resized"
