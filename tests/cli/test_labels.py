"""`--labels`, and what is said where a checkpoint does not name its classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mlp_mixer as mm
from mlp_mixer.cli import run

CLASSES = ("1", "2", "10")
COLOURS = {"1": (255, 0, 0), "2": (0, 255, 0), "10": (0, 0, 255)}


def call(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


def colour_network(order: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Weights that know the three colours; `order` says which logit is whose."""
    model = mm.create_model(
        "mixer_pico2", num_blocks=1, num_classes=len(order), gelu="erf"
    )
    tensors = model.state_dict()
    for tensor in tensors.values():
        tensor.zero_()
    tensors["norm.weight"].fill_(1)
    for row, name in enumerate(order):
        channel = list(COLOURS).index(name)
        tensors["stem.proj.weight"][channel, channel] = 1
        tensors["head.weight"][row, channel] = 5
    return tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures of each colour, in folders whose order is ambiguous."""
    for name, colour in COLOURS.items():
        place = tmp_path / "data" / name
        place.mkdir(parents=True)
        for number in range(4):
            picture = Image.new("RGB", (8, 8), colour)
            picture.putpixel((0, number), (90, 90, 90))
            picture.save(place / f"{number}.png")
    return tmp_path / "data"


def weights(tmp_path: Path, order: tuple[str, ...]) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(colour_network(order), path)
    return path


def evaluated(
    capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[float, str]:
    assert call("evaluate", *arguments, "--json") == 0
    captured = capsys.readouterr()
    return json.loads(captured.out)["top1"], captured.err


def test_the_order_of_classes_is_said_and_can_be_chosen(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    natural = weights(tmp_path, ("1", "2", "10"))
    top1, said = evaluated(capsys, natural, "--data", f"folder:{folder}")
    assert top1 == 1
    assert "order of the data's, 1, 2, 10; if torchvision" in said
    as_text = weights(tmp_path, ("1", "10", "2"))
    data = ("--data", f"folder:{folder}")
    assert evaluated(capsys, as_text, *data)[0] == pytest.approx(1 / 3)
    top1, said = evaluated(capsys, as_text, *data, "--labels", "lexicographic")
    assert top1 == 1
    assert "order" not in said
    assert evaluated(capsys, as_text, *data, "--labels", "1,10,2")[0] == 1
    result = mm.evaluate(as_text, f"folder:{folder}", labels="lexicographic")
    assert result.top1 == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("order", [("1", "2"), ("1", "2", "10", "1", "1")])
def test_another_number_of_classes_is_refused_before_anything_is_computed(
    tmp_path: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    order: tuple[str, ...],
) -> None:
    path = weights(tmp_path, order)
    assert call("evaluate", path, "--data", f"folder:{folder}") == 2
    said = capsys.readouterr().err
    assert f"3 classes, and this checkpoint has {len(order)} without names" in said
    assert "--labels" in said


def test_more_classes_than_the_data_are_fine_with_names(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = weights(tmp_path, ("10", "1", "2", "1"))
    names = tmp_path / "names.txt"
    names.write_text("10\n1\n2\nnothing\n")
    top1, _ = evaluated(capsys, path, "--data", f"folder:{folder}", "--labels", names)
    assert top1 > 0.6


def test_predict_names_the_classes_that_were_given(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = weights(tmp_path, CLASSES)
    picture = folder / "2" / "0.png"
    options = ("--labels", "red,green,blue", "--json")
    assert call("predict", path, picture, *options) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["pred_class"] == "green"
    assert call("predict", path, picture, "--labels", "red,green") == 2
    assert "2 names for 3 classes" in capsys.readouterr().err


def test_a_resumed_file_of_answers_has_one_set_of_names(
    tmp_path: Path, folder: Path
) -> None:
    path = weights(tmp_path, CLASSES)
    identities = []
    for names in (None, "red,green,blue", "r,g,b"):
        predictor = mm.Predictor(path, labels=names)
        identities.append(mm.inference.identity.identity(predictor))
    assert len({json.dumps(one) for one in identities}) == 3


def test_convert_writes_the_names(tmp_path: Path) -> None:
    path = weights(tmp_path, CLASSES)
    out = tmp_path / "native.safetensors"
    assert call("convert", path, out, "--to", "native", "--labels", "a,b,c") == 0
    assert mm.load(out).labels == ("a", "b", "c")


def test_arrays_in_memory_are_compared_too(tmp_path: Path) -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    data = mm.Dataset.from_arrays(images, [0, 1, 2, 3, 4, 5])
    with pytest.raises(mm.UserError, match="6 classes, and this checkpoint has 3"):
        mm.evaluate(weights(tmp_path, CLASSES), data, split="all")
