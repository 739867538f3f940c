"""`mlp-mixer export` as a person uses it: a table, JSON for programs, and one sentence
for each mistake.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from mlp_mixer import MixerConfig, MlpMixer, save
from mlp_mixer.cli import run


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


for _package in ("onnx", "onnxruntime"):
    pytest.importorskip(_package)


@pytest.fixture
def source(tmp_path: Path) -> str:
    model = MlpMixer(
        MixerConfig(4, 1, 16, 8, 32, image_size=(8, 8), num_classes=3, gelu="erf")
    )
    torch.nn.init.normal_(model.head.weight)
    return str(save(tmp_path / "m.safetensors", model))


def test_a_table_and_json(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "m.onnx")
    assert call("export", source, out, "--to", "onnx", "--opset", "13") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ms/image, 1 at once" in lines[0]
    assert [line.split()[0] for line in lines[1:3]] == ["torch", "onnxruntime"]
    assert lines[3] == f"{out}: compared with torch on 8 of noise and 8 digits"
    assert call("export", source, out, "--to", "onnx") == 2
    error = capsys.readouterr().err
    assert (
        error
        == f"error: {out!r} exists; choose another name, or use --overwrite to replace it\n"
    )
    code = call(
        "export", source, out, "--to", "onnx", "--int8", "--overwrite", "--json"
    )
    assert code == 0
    answer = json.loads(capsys.readouterr().out)
    assert 0 < answer["rows"][1]["difference"] < 0.1
    assert answer["rows"][0]["top1"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("m.onnx --to onxx", "unknown kind of export 'onxx'; did you mean 'onnx'?"),
        ("m.pt --to onnx", "onnx makes a .onnx file, got 'm.pt'"),
        (
            "m.onnx --to onnx --opset 12",
            "opset 12 cannot be written for this network: expected 13 to 20",
        ),
        (
            "m.onnx --to onnx --opset 21",
            "opset 21 cannot be written for this network: expected 13 to 20",
        ),
        (
            "m.onnx --to onnx --preprocess both",
            "preprocess is 'both': expected inside or beside",
        ),
        (
            "m.pt2 --to aoti --int8",
            "aoti has no --int8 and no --opset; use onnx or openvino",
        ),
        (
            "m.onnx --to onnx --calibrate .",
            "--calibrate is for int8; add --int8, or use --check to compare",
        ),
        (
            "m.onnx --to onnx --check empty",
            "there are no images in 'empty'; give a folder of pictures",
        ),
        (
            "m.onnx --to onnx --check nowhere",
            "there are no images in 'nowhere'; give a folder of pictures",
        ),
        (
            "folder --to timm --preprocess inside",
            "timm takes prepared images only; leave --preprocess at beside",
        ),
        (
            "folder --to timm",
            "timm has no entry point for patches of 4, 1 blocks of 16; export to onnx instead",
        ),
        (
            "m.pte --to executorch",
            "executorch needs executorch; run pip install executorch",
        ),
        (
            "m.pt2 --to aoti",
            "aoti needs a C++ compiler, and there is no 'no-such-compiler'; install g++",
        ),
    ],
)
def test_mistakes(
    arguments: str,
    sentence: str,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = tmp_path / "work"
    (work / "empty").mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("CXX", "no-such-compiler")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "executorch" else find(name, *rest),
    )
    assert call("export", source, *arguments.split()) == 2
    assert sentence in (error := capsys.readouterr().err)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    shutil.rmtree(work / "empty")
    assert not list(work.iterdir())


def test_the_source_is_not_overwritten(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(source, same := tmp_path / "same.onnx")
    assert call("export", same, same, "--to", "onnx", "--overwrite") == 2
    assert "is the file to read" in capsys.readouterr().err
