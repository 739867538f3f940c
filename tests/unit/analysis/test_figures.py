"""Figures 5 to 7 of any Mixer's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from mlp_mixer import UserError, create_model, save
from mlp_mixer.analysis.figures import draw_filters, stacked, weight_figures
from mlp_mixer.analysis.token_units import token_unit_pictures
from mlp_mixer.cli import run
from mlp_mixer.images.preprocess import Preprocess


def test_filters_are_drawn_by_frequency_in_their_own_colours() -> None:
    # Green where positive, magenta where negative.
    chequered = np.zeros((1, 3, 4, 4), np.float32)
    chequered[0, 1] = (np.indices((4, 4)).sum(0) % 2) * 2 - 1
    # Small weights, but each filter is scaled by its own size.
    flat = np.full((1, 3, 4, 4), -0.01, np.float32)
    mosaic = draw_filters(np.concatenate([chequered, flat]), gap=2)
    side = 48
    first = mosaic[2 : 2 + side, 2 : 2 + side]
    second = mosaic[2 : 2 + side, 4 + side : 4 + 2 * side]
    assert (first == 0).all()
    found = np.unique(second.reshape(-1, 3), axis=0)
    assert found.tolist() == [[128, 0, 128], [128, 255, 128]]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels(channels: int) -> None:
    rng = np.random.default_rng(0)
    mosaic = draw_filters(rng.normal(size=(7, channels, 3, 3)).astype(np.float32))
    inside = mosaic[3:-3, 3:-3]
    is_coloured = (np.ptp(inside, axis=2) > 8).any()
    assert is_coloured == (channels == 3)


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="NaN"):
        draw_filters(np.full((1, 3, 2, 2), np.nan))


def test_the_first_three_blocks_all_units_and_some() -> None:
    model = create_model("mixer_nano4", num_blocks=4, tokens_mlp_dim=200, num_classes=2)
    figures = weight_figures(model)
    tensors = model.state_dict()
    names = [f"blocks.{index}.mlp_tokens.fc1.weight" for index in range(3)]
    weights = [tensors[name].numpy() for name in names]
    for name, most in (("token_units", 128), ("token_units_all", None)):
        expected = token_unit_pictures(weights, (8, 8), most_units=most)
        drawn = figures[name]
        assert drawn.shape[0] == sum(34 + picture.shape[0] for picture in expected)
        first = expected[0]
        assert np.array_equal(drawn[34 : 34 + first.shape[0]], first)
    assert figures["token_units"].shape[0] < figures["token_units_all"].shape[0]


def test_titles_stand_above_their_pictures() -> None:
    black = np.zeros((10, 60, 3), np.uint8)
    gray = np.full((5, 40, 3), 200, np.uint8)
    sheet = stacked(["one", "two"], [black, gray])
    assert sheet.shape == (10 + 5 + 2 * 34, 60, 3)
    assert (sheet[34:44] == 0).all()
    assert (sheet[78:83, :40] == 200).all()
    assert (sheet[:34] < 100).any(), "no letters"


def test_figures_of_a_dark_page_are_dark() -> None:
    model = create_model("mixer_nano4", num_blocks=1, num_classes=2)
    told: list[tuple[int, int]] = []
    light = weight_figures(
        model, progress=lambda done, total: told.append((done, total))
    )
    dark = weight_figures(model, dark=True)
    assert told == [(1, 3), (2, 3), (3, 3)]
    for name, picture in light.items():
        assert picture.shape == dark[name].shape
        assert picture[:30].mean() > 200, "the title on light paper"
        assert dark[name][:30].mean() < 80, "the title on dark paper"
    # Weights near zero are most of them: no slab of white tiles.
    assert dark["token_units"].mean() < light["token_units"].mean() - 50


def draw(checkpoint: Path, out: Path) -> int:
    return run(["figures", str(checkpoint), "--out", str(out)])


def test_the_command_draws_a_checkpoint(tmp_path: Path) -> None:
    model = create_model("mixer_pico2", in_channels=1, num_classes=2)
    path = tmp_path / "w.safetensors"
    save(path, model, preprocess=Preprocess((8, 8), channels=1))
    assert draw(path, tmp_path / "pictures") == 0
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"token_units.png", "token_units_all.png", "embeddings.png"}
    for name in names:
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert picture.size[0] > 100


def test_weights_that_diverged_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("mixer_pico2", in_channels=1, num_classes=2)
    path = save(
        tmp_path / "broken.safetensors",
        model,
        preprocess=Preprocess((8, 8), channels=1),
    )
    # `save` would not write it; versions before did.
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        description = {"mlp_mixer": file.metadata()["mlp_mixer"]}
    tensors["stem.proj.weight"].fill_(float("inf"))
    safetensors.torch.save_file(tensors, path, description)
    assert draw(path, tmp_path / "x") == 2
    error = capsys.readouterr().err
    assert "the training diverged" in error
    assert "Traceback" not in error
