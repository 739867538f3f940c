"""Pictures larger than the network: tiles give the answer of the block-diagonally grown
one (the paper's App. C).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import (
    Checkpoint,
    Failure,
    Prediction,
    Predictor,
    Preprocess,
    UserError,
    create_model,
    resize,
    save,
)
from mlp_mixer.cli import run
from mlp_mixer.inference import Features, answers


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


RNG = np.random.default_rng(0)


def mixer(
    name: str = "mixer_nano4", image_size: tuple[int, int] = (16, 16), **fields: object
) -> Checkpoint:
    small = {
        "num_blocks": 2,
        "hidden_dim": 8,
        "channels_mlp_dim": 16,
        "patch_size": 4,
        "num_classes": 6,
    }
    model = create_model(name, image_size=image_size, **(small | fields)).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Checkpoint(
        model, Preprocess(image_size), tuple("abcdef") if model.num_classes else None
    )


def photo(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def features(
    predictor: Predictor, pictures: list[np.ndarray], batch_size: int = 32
) -> list[dict[str, np.ndarray]]:
    answers = list(
        predictor.features(pictures, ["pre_logits", "logits"], batch_size=batch_size)
    )
    assert all(isinstance(answer, Features) for answer in answers)
    return [answer.values for answer in answers if isinstance(answer, Features)]


@pytest.mark.parametrize(
    ("size", "picture", "K"),
    [
        ((16, 16), (32, 32), 2),
        ((16, 16), (70, 50), 3),
        ((16, 16), (47, 200), 2),  # the shorter side decides, and K is rounded down
        ((16, 16), (31, 300), 1),
        ((16, 16), (9, 9), 1),
        ((16, 16), (500, 500), 4),  # 4 at most
        ((8, 16), (33, 34), 2),  # 4 times into the height, twice into the width
    ],
)
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_tiles_are_the_grown_network(
    size: tuple[int, int], picture: tuple[int, int], K: int, crop_pct: float
) -> None:
    small = mixer(image_size=size)
    small = dataclasses.replace(
        small, preprocess=dataclasses.replace(small.preprocess, crop_pct=crop_pct)
    )
    grown = resize(small, (K * size[0], K * size[1])) if K > 1 else small
    pixels = photo(*picture)
    (expected,) = features(Predictor(grown), [pixels])
    (found,) = features(Predictor(small, larger="tile"), [pixels])
    scale = np.abs(expected["logits"]).max()
    assert scale > 0.5
    for name in expected:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=0, atol=5e-6 * scale
        )
    answer = Predictor(small, larger="tile")(pixels)
    same = Predictor(grown)(pixels)
    assert [one.label for one in answer.top] == [one.label for one in same.top]
    assert [one.score for one in answer.top] == pytest.approx(
        [one.score for one in same.top], abs=5e-6
    )
    if K > 1:
        (resized,) = features(Predictor(small), [pixels])
        assert np.abs(resized["logits"] - expected["logits"]).max() > 1e-3 * scale


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_pictures_of_all_sizes_and_broken_ones_share_batches(
    batch_size: int, tmp_path: Path
) -> None:
    checkpoint = mixer()
    sizes = [(16, 16), (40, 33), (70, 70), (10, 90), (50, 50)]
    pictures: list[object] = [photo(*size) for size in sizes]
    pictures.insert(2, tmp_path / "nowhere.png")
    alone = [
        Predictor(checkpoint, larger="tile")(p)
        for p in pictures
        if isinstance(p, np.ndarray)
    ]
    answers = list(
        Predictor(checkpoint, larger="tile").predict(pictures, batch_size=batch_size)
    )  # type: ignore[arg-type]
    assert isinstance(answers.pop(2), Failure)
    for answer, expected in zip(answers, alone, strict=True):
        assert isinstance(answer, Prediction)
        assert answer.pred_label == expected.pred_label
        assert answer.pred_score == pytest.approx(expected.pred_score, abs=5e-6)


def test_no_more_than_a_batch_is_computed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = Predictor(mixer(), larger="tile")
    seen = []
    compute = predictor.logits

    def counted(x_BCHW: torch.Tensor) -> torch.Tensor:
        seen.append(len(x_BCHW))
        return compute(x_BCHW)

    monkeypatch.setattr(predictor, "logits", counted)
    assert len(list(predictor.predict([photo(64, 64)] * 3, batch_size=20))) == 3
    assert seen == [20, 20, 8]


@pytest.mark.parametrize(
    "name", ["gmixer_12", "resmlp_12", "gmlp_ti16", "pyramid_nano4"]
)
def test_other_families_average_tiles_too(name: str) -> None:
    """No grown network to compare with: the tiles by hand."""
    fields = {"pyramid": (8, 4)} if name.startswith("pyramid") else {}
    checkpoint = mixer(name, **fields)
    pixels = photo(32, 32)
    checkpoint = dataclasses.replace(
        checkpoint, preprocess=Preprocess((16, 16), crop_pct=1.0)
    )
    parts = [
        pixels[top : top + 16, left : left + 16] for top in (0, 16) for left in (0, 16)
    ]
    with torch.inference_mode():
        logits = checkpoint.model(
            torch.stack([checkpoint.preprocess(part) for part in parts])
        ).mean(dim=0)
    (found,) = features(Predictor(checkpoint, larger="tile"), [pixels])
    np.testing.assert_allclose(found["logits"], logits.numpy(), rtol=1e-5, atol=1e-5)


def test_without_a_head_and_what_has_no_mean() -> None:
    small = mixer(num_classes=0)
    pixels = photo(32, 32)
    (expected,), (found,) = (
        features(p, [pixels])
        for p in (Predictor(resize(small, 32)), Predictor(small, larger="tile"))
    )
    np.testing.assert_allclose(
        found["pre_logits"], expected["pre_logits"], rtol=1e-5, atol=1e-5
    )
    with pytest.raises(
        UserError,
        match="tiles have only pre_logits and logits in common, got pre_logits, norm",
    ):
        Predictor(small, larger="tile").features([pixels], ["pre_logits", "norm"])
    with pytest.raises(
        UserError, match="unknown way with larger pictures 'tiles'; did you mean 'tile'"
    ):
        Predictor(small, larger="tiles")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = mixer()
    path = save(
        tmp_path / "m.safetensors",
        checkpoint.model,
        preprocess=checkpoint.preprocess,
        labels=checkpoint.labels,
    )
    Image.fromarray(photo(64, 64)).save(tmp_path / "p.png")
    outs = [tmp_path / f"{larger}.jsonl" for larger in ("resize", "tile")]
    for out in outs:
        code = call(
            "predict", path, tmp_path / "p.png", "--larger", out.stem, "--out", out
        )
        assert code == 0
    first, second = (out.read_text() for out in outs)
    assert first != second
    expected = Predictor(checkpoint, larger="tile")(tmp_path / "p.png")
    assert f"{expected.pred_score:.6f}"[:6] in second
    capsys.readouterr()
    assert call("predict", path, tmp_path / "p.png", "--larger", "grow") == 2
    assert "unknown way with larger pictures 'grow'" in capsys.readouterr().err


def test_a_run_with_tiles_does_not_go_on_where_one_without_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(
        tmp_path / "m.safetensors", mixer().model, preprocess=Preprocess((16, 16))
    )
    Image.fromarray(photo(64, 64)).save(tmp_path / "p.png")
    command = [
        "predict",
        str(path),
        str(tmp_path / "p.png"),
        "--out",
        str(tmp_path / "a.jsonl"),
    ]

    def stop(self: answers.Unfinished, top: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(answers.Unfinished, "finish", stop)
        assert run(command) == 130
    assert call(*command, "--resume", "--larger", "tile") == 2
    assert "was begun with other weights or settings" in capsys.readouterr().err
    assert call(*command, "--resume") == 0
