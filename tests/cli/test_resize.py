"""`mlp-mixer resize`: the printed line, the file, and mistakes in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mlp_mixer import create_model, load, save
from mlp_mixer.cli import run


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small native checkpoint for 16 x 16 pixels in patches of 4, with trained-like
    weights.
    """
    model = create_model(
        "mixer_nano4",
        num_blocks=1,
        hidden_dim=8,
        tokens_mlp_dim=4,
        channels_mlp_dim=8,
        image_size=16,
        num_classes=2,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return save(tmp_path / "in.safetensors", model, labels=["cat", "dog"])


def test_resized_weights_are_written_and_described(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert call("resize", source, out, "--image-size", "32x16") == 0
    large = load(out)
    params = sum(parameter.numel() for parameter in large.model.parameters())
    printed = capsys.readouterr().out
    assert printed == f"{out}: 32x16 in patches of 4, {params:,} parameters\n"
    assert large.model.config.image_size == (32, 16)
    assert large.model.config.tokens_mlp_dim == 8
    assert (large.preprocess.image_size, large.labels) == ((32, 16), ("cat", "dog"))
    top = torch.randn(2, 3, 16, 16)
    bottom = torch.randn(2, 3, 16, 16)
    small = load(source).model
    with torch.inference_mode():
        found = large.model(torch.cat([top, bottom], dim=2))
        expected = (small(top) + small(bottom)) / 2
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_every_option_arrives(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    arguments = [
        "--image-size",
        "20",
        "--method",
        "interpolate",
        "--patch-size",
        "2",
        "--overwrite",
    ]
    assert call("resize", source, out, *arguments) == 0
    config = load(out).model.config
    assert config.image_size == (20, 20)
    assert config.patch_size == 2
    assert config.tokens_mlp_dim == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["IN", "out.safetensors", "--image-size", "24"],
            "block_diagonal growth is for whole multiples of 16x16",
        ),
        (
            ["IN", "out.safetensors", "--image-size", "18"],
            "18x18 is not divisible by the patch size 4",
        ),
        (["IN", "out.safetensors", "--image-size", "big"], "expected a side or HxW"),
        (
            ["IN", "out.safetensors", "--image-size", "32", "--method", "block"],
            "unknown method 'block'",
        ),
        (
            ["IN", "out.safetensors", "--image-size", "32", "--patch-size", "0"],
            "patch_size must be at least 1",
        ),
        (
            ["IN", "out.npz", "--image-size", "32"],
            "a native checkpoint is a .safetensors file",
        ),
        (
            ["IN", "there.safetensors", "--image-size", "32"],
            "exists; choose another name",
        ),
        (["IN", "IN", "--image-size", "32", "--overwrite"], "is the file to read"),
        (
            ["nowhere.npz", "out.safetensors", "--image-size", "32"],
            "no checkpoint at 'nowhere.npz'",
        ),
        (
            ["mixer_b16", "out.safetensors", "--image-size", "448"],
            "an architecture without weights",
        ),
    ],
)
def test_mistakes_end_in_one_sentence_and_no_file(
    arguments: list[str],
    sentence: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = source.read_bytes()
    Path("there.safetensors").write_bytes(b"precious")
    code = call(
        "resize", *(str(source) if part == "IN" else part for part in arguments)
    )
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.safetensors",
        "there.safetensors",
    ]
    assert Path("there.safetensors").read_bytes() == b"precious"


def test_the_size_is_required(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("resize", source, "out.safetensors") == 2
    assert "--image-size" in capsys.readouterr().err
