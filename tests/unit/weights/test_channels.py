"""Weights for other channels: timm's rule, what is said of it, and its way to the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mlp_mixer as mm
from mlp_mixer.analysis.explain import seen_part
from mlp_mixer.analysis.token_units import visible
from mlp_mixer.report import build_report, write_report
from mlp_mixer.weights.channels import adapted


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 12, 13])
def test_the_kernels_are_those_of_timm(channels: int) -> None:
    timm = pytest.importorskip("timm.models._manipulate")
    kernel = torch.randn(5, 3, 4, 4)
    expected = timm.adapt_input_conv(channels, kernel)
    torch.testing.assert_close(adapted(kernel, channels), expected, rtol=0, atol=1e-6)


def rgb(tmp_path: Path, **about: object) -> Path:
    model = mm.create_model("mixer_pico2", num_blocks=1, num_classes=3, gelu="erf")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return mm.save(tmp_path / "rgb.safetensors", model, **about)  # type: ignore[arg-type]


def test_a_gray_image_is_answered_as_in_all_three_channels(tmp_path: Path) -> None:
    path = rgb(tmp_path)
    gray = mm.load(path, channels=1)
    image = torch.rand(2, 1, 8, 8)
    expected = mm.load(path).model(image.expand(-1, 3, -1, -1))
    torch.testing.assert_close(gray.model(image), expected, rtol=0, atol=1e-5)
    assert gray.preprocess.channels == 1
    assert "summed for 1" in gray.provenance["notes"][-1]


@pytest.mark.parametrize("channels", [2, 5, 12])
def test_equal_bands_are_answered_as_before(tmp_path: Path, channels: int) -> None:
    """Where all bands are the same, repeating and scaling changes nothing."""
    path = rgb(tmp_path)
    # The three channels must count alike, or the repetition shifts their weights.
    before = mm.load(path)
    with torch.no_grad():
        kernel = before.model.stem.proj.weight
        kernel.copy_(kernel.mean(dim=1, keepdim=True).expand_as(kernel))
    path = mm.save(tmp_path / "even.safetensors", before.model)
    image = torch.rand(2, 1, 8, 8)
    expected = before.model(image.expand(-1, 3, -1, -1))
    found = mm.load(path, channels=channels).model(image.expand(-1, channels, -1, -1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_same_number_changes_nothing(tmp_path: Path) -> None:
    path = rgb(tmp_path)
    assert mm.load(path, channels=3).provenance == mm.load(path).provenance
    for wrong in (0, -1, 2.5, "3", True):
        with pytest.raises(mm.UserError, match="number of channels"):
            mm.load(path, channels=wrong)  # type: ignore[arg-type]


def bands(count: int, channels: int) -> mm.Dataset:
    """Images whose class is the half of the bands that is bright."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 90, (count, 8, 8, channels), dtype=np.uint8)
    labels = np.arange(count) % 2
    half = channels // 2
    images[labels == 0, :, :, :half] += 120
    images[labels == 1, :, :, half:] += 120
    return mm.Dataset.from_arrays(images, labels, ["low", "high"], spec="bands")


def test_twelve_bands_from_fine_tuning_to_the_explanation(tmp_path: Path) -> None:
    data = bands(48, 12)
    run = tmp_path / "run"
    with pytest.raises(mm.UserError, match="--channels 12"):
        mm.finetune(rgb(tmp_path), data, run, settings={"train.epochs": 1})
    settings = {"train.epochs": 1, "model.in_channels": 12}
    mm.finetune(rgb(tmp_path), data, run, settings=settings)
    told = (run / "config.json").read_text()
    assert "repeated and scaled by 3/12" in told
    assert mm.evaluate(run, data).n > 0
    image = data.all().image(0)
    predictor = mm.Predictor(run)
    answers = [
        predictor(source)
        for source in (
            image,
            image.transpose(2, 0, 1),
            torch.from_numpy(image.transpose(2, 0, 1).copy()) / 255,
        )
    ]
    assert len({answer.pred_score for answer in answers}) == 1
    assert seen_part(image, predictor.checkpoint.preprocess).shape == (8, 8, 1)


def test_a_report_shows_the_mean_of_many_bands(tmp_path: Path) -> None:
    from mlp_mixer.report.html import _data_uri, thumbnail

    image = bands(2, 12).train.image(0)
    assert _data_uri(image) == _data_uri(visible(image))
    assert thumbnail(np.repeat(image, 80, axis=0)).ndim == 2


@pytest.mark.parametrize("channels", [2, 5, 12])
def test_a_run_of_bands_in_files_to_its_report(tmp_path: Path, channels: int) -> None:
    data = bands(32, channels).all()
    images = np.stack([data.image(index) for index in range(32)])
    np.savez(tmp_path / "bands.npz", x_train=images, y_train=data.labels)
    run = tmp_path / "run"
    settings = {
        "model.name": "mixer_pico2",
        "model.image_size": 8,
        "data.source": f"npz:{tmp_path / 'bands.npz'}",
        "train.batch_size": 8,
    }
    mm.train("digits", run, settings=settings, epochs=1)
    page = tmp_path / "page.html"
    write_report(build_report(run), page)
    text = page.read_text(encoding="utf-8")
    # Sample images and pictures of the weights are in it, and nothing went wrong.
    assert text.count("data:image/png") > 2
    assert f"{mm.evaluate(run, settings['data.source']).n} images" in text
    np.save(tmp_path / "one.npy", images[0])
    np.save(tmp_path / "first.npy", images[0].transpose(2, 0, 1))
    scores = [
        mm.Predictor(run)(source).pred_score
        for source in (images[0], tmp_path / "one.npy", tmp_path / "first.npy")
    ]
    assert len(set(scores)) == 1
