"""`--key` chooses between the networks of a file, wherever weights are taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import UserError, api, create_model, load
from mlp_mixer.cli import run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a student and a teacher, and a picture, in the current folder."""
    monkeypatch.chdir(tmp_path)
    networks = {}
    for seed, role in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        model = create_model(
            "mixer_nano4",
            num_blocks=1,
            hidden_dim=8,
            tokens_mlp_dim=4,
            channels_mlp_dim=8,
            image_size=8,
            num_classes=3,
            gelu="erf",
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        networks[role] = model.state_dict()
    torch.save(networks, "both.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save("a.png")
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[float]:
    assert run(["predict", "both.pth", "a.png", "--json", *arguments]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    return [one["score"] for one in row["top"]]


def test_it_chooses_in_predict(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "both.pth", "a.png"]) == 2
    error = capsys.readouterr().err
    assert "holds several networks, in 'student' and 'teacher'" in error
    assert "--key NAME" in error
    # Verbs without that option have settings.
    settings = ("model.init=both.pth", "train.epochs=1", "train.device=cpu")
    train = ["train", "digits", "--out", "run"]
    for setting in settings:
        train += ["--set", setting]
    assert run(train) == 2
    assert "model.key=NAME" in capsys.readouterr().err
    student = answer(capsys, "--key", "student")
    teacher = answer(capsys, "--key", "teacher")
    assert student != teacher
    assert run(["predict", "both.pth", "a.png", "--key", "tutor"]) == 2
    assert "no network at 'tutor'" in capsys.readouterr().err


def test_it_chooses_in_convert_and_resize(here: Path) -> None:
    teacher = load("both.pth", key="teacher").model.state_dict()
    options = ["--key", "teacher", "--to", "native"]
    assert run(["convert", "both.pth", "one.safetensors", *options]) == 0
    got = load("one.safetensors").model.state_dict()
    assert all(torch.equal(got[name], tensor) for name, tensor in teacher.items())
    options = ["--key", "teacher", "--image-size", "16"]
    assert run(["resize", "both.pth", "two.safetensors", *options]) == 0
    stem = load("two.safetensors").model.state_dict()["stem.proj.weight"]
    assert torch.equal(stem, teacher["stem.proj.weight"])


@pytest.mark.parametrize(
    "verb", ["evaluate", "fewshot", "probe", "export", "serve", "explain"]
)
def test_every_verb_that_takes_weights_has_it(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([verb, "--help"]) == 0
    assert "--key" in capsys.readouterr().out


def test_fine_tuning_remembers_it(here: Path) -> None:
    config = api.finetune_config("both.pth", "digits", key="teacher")
    assert (config.model.init, config.model.key) == ("both.pth", "teacher")
    with pytest.raises(UserError, match="holds several networks"):
        api.finetune_config("both.pth", "digits")
