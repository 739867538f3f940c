"""`mlp-mixer explain`: the picture, the printed line, and mistakes in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import Preprocess, create_model, save
from mlp_mixer.analysis.explain import draw, maps, nearest, seen_part
from mlp_mixer.cli import run
from mlp_mixer.data.registry import open_dataset
from mlp_mixer.weights import load


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    model = create_model(
        "mixer_pico2", num_blocks=1, hidden_dim=8, num_classes=10, in_channels=1
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    preprocess = Preprocess((8, 8), channels=1, crop_pct=1.0)
    return save(
        tmp_path / "m.safetensors",
        model,
        preprocess=preprocess,
        labels=[f"digit {i}" for i in range(10)],
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (20, 26), dtype=np.uint8)
    ).save(tmp_path / "i.png")
    return tmp_path / "i.png"


def test_everything_in_one_picture(
    weights: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.PNG"
    code = call(
        "explain", weights, image, "--out", out, "--data", "digits", "--device", "cpu"
    )
    assert code == 0
    known = load(weights)
    pixels = np.array(Image.open(image))[..., None]
    x = known.preprocess(pixels)[None]
    with torch.inference_mode():
        scores = known.model(x).softmax(1)[0]
    best = scores.topk(5)
    top = [(f"digit {i}", scores[i].item()) for i in best.indices.tolist()]
    label = int(best.indices[0])
    heat = {
        method: maps(known.model, x, label, method)
        for method in ("occlusion", "gradient")
    }
    near = nearest(known, x, open_dataset("digits").train)
    photo = seen_part(pixels, known.preprocess)
    expected = draw(photo, heat, f"digit {label}", top, near)  # type: ignore[arg-type]
    found = np.array(Image.open(out))
    assert found.shape == expected.shape
    assert (found != expected).mean() < 0.01  # rounding of a batch of one
    printed = capsys.readouterr().out
    assert (
        printed
        == f"{out}: digit {label} {100 * top[0][1]:.2f} %, maps of digit {label}\n"
    )


def test_another_class_and_one_map(
    weights: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = []
    for name in ("digit 3", "digit 4"):
        more = ["--class", name, "--method", "gradient", "--overwrite"]
        assert call("explain", weights, image, "--out", tmp_path / "o.png", *more) == 0
        assert capsys.readouterr().out.endswith(f", maps of {name}\n")
        pictures.append(np.array(Image.open(tmp_path / "o.png")))
    assert pictures[0].shape[1] == 636
    assert (pictures[0][44:332, 328:616] != pictures[1][44:332, 328:616]).mean() > 0.1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["WEIGHTS", "IMAGE", "--out", "o.jpg"],
            "the picture is a .png file, got 'o.jpg'; change its ending",
        ),
        (
            ["WEIGHTS", "IMAGE", "--out", "o.png", "--class", "digit3"],
            "unknown class 'digit3'; did you mean 'digit 3'",
        ),
        (
            ["WEIGHTS", "IMAGE", "--out", "o.png", "--method", "grad"],
            "unknown method 'grad'; did you mean 'gradient'",
        ),
        (["WEIGHTS", "none.png", "--out", "o.png"], "none.png"),
        (
            ["WEIGHTS", "IMAGE", "--out", "o.png", "--data", "digit"],
            "unknown dataset 'digit'; did you mean 'digits'",
        ),
        (
            ["none.safetensors", "IMAGE", "--out", "o.png"],
            "no checkpoint at 'none.safetensors'",
        ),
        (["WEIGHTS", "FOLDER", "--out", "o.png"], "stands for several images"),
    ],
)
def test_mistakes_in_one_sentence(
    arguments: list[str],
    sentence: str,
    weights: Path,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "two").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "two" / name).write_bytes(image.read_bytes())
    monkeypatch.chdir(tmp_path)
    places = {
        "WEIGHTS": str(weights),
        "IMAGE": str(image),
        "FOLDER": str(tmp_path / "two"),
    }
    code = call("explain", *(places.get(argument, argument) for argument in arguments))
    assert code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("o.*"))
