"""What the arguments of several verbs mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from mlp_mixer import UserError
from mlp_mixer.cli import run
from mlp_mixer.cli.arguments import parse_size, split_arguments
from mlp_mixer.weights.catalog import BUNDLED


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of pictures, one of a run, and a picture without an ending."""
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "photos/a.png", "plain", "run/best.safetensors"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize(
    "arguments",
    [
        "photo.png",
        "photos",
        "photos/",
        "photos/*.png",
        "**/x?.jpg",
        "plain",
        "-",
        "nosuch.jpg",
        "NO.JPEG plain",
        "clip.mp4",
        "https://host/picture",
        "http://host/photo.png?size=2",
    ],
)
def test_pictures_come_first(arguments: str) -> None:
    pictures = arguments.split()
    assert split_arguments(pictures, None) == (None, pictures)
    assert split_arguments(pictures, "w.npz") == ("w.npz", pictures)


@pytest.mark.parametrize(
    "checkpoint",
    [
        "run",
        "run/best.safetensors",
        "missing.safetensors",
        "w.PTH",
        "mixer_b16",
        "B-i1k/16",
        "hf-hub:a/b",
        "hf_hub:a/b",
        "runs/mistyped",
        "mixer_b16.goog_in1",
        "https://host/w.safetensors",
        "https://host/w.npz?download=true",
        "",
        "x" * 300,
        BUNDLED.stem,
    ],
)
def test_weights_come_first_even_if_they_are_not_there(checkpoint: str) -> None:
    found = split_arguments([checkpoint, "photo.png"], None)
    assert found == (checkpoint, ["photo.png"])


@pytest.mark.parametrize("save", ["safetensors", "torch", "old torch", "npz"])
def test_a_checkpoint_without_an_ending_is_no_picture(save: str) -> None:
    tensors = {"a": torch.zeros(2)}
    path = Path("weights")
    if save == "safetensors":
        safetensors.torch.save_file(tensors, path)
    elif save == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(2))
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=save == "torch")
    assert split_arguments(["weights", "photos"], None) == ("weights", ["photos"])
    with pytest.raises(UserError, match="'weights' is a checkpoint, not a picture"):
        split_arguments(["photo.png", "weights"], None)


@pytest.mark.parametrize("name", ["last.safetensors", "config.json"])
def test_a_run_that_was_stopped_is_no_folder_of_pictures(name: str) -> None:
    Path("stopped").mkdir()
    Path("stopped", name).touch()
    assert split_arguments(["stopped", "photos"], None) == ("stopped", ["photos"])


def test_a_checkpoint_among_the_pictures_is_refused() -> None:
    with pytest.raises(UserError, match="'run' is a checkpoint.*; put it first"):
        split_arguments(["photo.png", "run"], None)
    with pytest.raises(UserError, match="only one is used, and that is 'w.npz'"):
        split_arguments(["photo.png", "run"], "w.npz")


@pytest.mark.parametrize(
    ("text", "size"),
    [("224", (224, 224)), ("224x320", (224, 320)), (" 8X16 ", (8, 16))],
)
def test_sizes_are_a_side_or_height_and_width(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "224x", "2 24", "-1", "1e3", "1234567"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a side or HxW"):
        parse_size(text)


def test_a_path_with_a_comma_is_one_path(capsys: pytest.CaptureFixture[str]) -> None:
    """Other fields read a comma as a list."""
    command = ["train", "digits", "--set", "train.device=cpu", "--out", "out"]
    assert run([*command, "--set", "model.init=/nowhere/a,b.pt"]) == 2
    assert "no checkpoint at '/nowhere/a,b.pt'" in capsys.readouterr().err
    assert run([*command, "--set", "data.source=folder:/nowhere/a,b"]) == 2
    assert "/nowhere/a,b" in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_old_name_of_an_option_still_works(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("run/best.safetensors").write_bytes(BUNDLED.read_bytes())
    errors = []
    for option in ("--lineage", "--dialect"):
        command = ["convert", "run", "out.safetensors", "--to", "native"]
        assert run([*command, option, "tmm"]) == 2
        errors.append(capsys.readouterr().err)
    assert errors[0] == errors[1]
    assert "did you mean 'timm'" in errors[0]
    assert run(["convert", "--help"]) == 0
    help_text = capsys.readouterr().out
    assert "--lineage" in help_text
    assert "--dialect" not in help_text
