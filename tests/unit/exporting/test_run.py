"""Every target answers as the network does, from real picture files on; what does not
is not written.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import MixerConfig, MlpMixer, Preprocess, UserError, load, save
from mlp_mixer.exporting import export, run, targets
from mlp_mixer.models.gmlp import GMlpConfig

for _package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(_package)

CONFIG = MixerConfig(4, 1, 24, 10, 40, image_size=(8, 12), num_classes=3, gelu="erf")
LABELS = ["cat", "dog", "Vögel"]
RECORD = Preprocess((8, 12), mean=(0.1, 0.4, 0.7), std=(0.2, 0.5, 0.9))


def saved(path: Path, config: Any = CONFIG, record: Preprocess = RECORD) -> Path:
    """A checkpoint without a parameter at its initial value."""
    model = MlpMixer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return save(path, model, preprocess=record, labels=LABELS)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures of other sizes than the network's, in folders named as its
    classes.
    """
    random = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "photos" / LABELS[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 33, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    return tmp_path / "photos"


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No new process can import this package."""
    (tmp_path / "trap" / "mlp_mixer").mkdir(parents=True)
    (tmp_path / "trap" / "mlp_mixer" / "__init__.py").write_text(
        "raise ImportError('the export needs mlp_mixer')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "trap"))


def agree(report: dict[str, Any], tolerance: float) -> None:
    ours, theirs = report["rows"]
    assert theirs["difference"] <= tolerance
    assert (ours["difference"], ours["same_top1"], theirs["same_top1"]) == (0, 1, 1)
    assert theirs["top1"] == ours["top1"] is not None
    assert theirs["mib"] > 0 < theirs["ms_batch_8"]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("where", ["inside", "beside"])
def test_onnx_from_picture_to_answer(where: str, tmp_path: Path, photos: Path) -> None:
    import onnxruntime

    checkpoint = load(saved(tmp_path / "m.safetensors"))
    report = export(
        tmp_path / "m.safetensors",
        out := tmp_path / "out" / "m.onnx",
        "onnx",
        preprocess=where,
        check=photos,
    )
    agree(report, 1e-5)
    assert report["images"] == "12 of 12 in photos"
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "m.onnx",
        "m.onnx.json",
    ]
    with torch.inference_mode():
        best = {
            path: checkpoint.model(RECORD(np.asarray(Image.open(path)))[None]).argmax()
            for path in photos.rglob("*.*")
        }
    right = sum(LABELS[number] == path.parent.name for path, number in best.items())
    assert report["rows"][1]["top1"] == right / 12 > 0
    session = onnxruntime.InferenceSession(out)
    inside = json.loads(session.get_modelmeta().custom_metadata_map["mlp_mixer"])
    beside = json.loads(Path(f"{out}.json").read_text())
    assert inside.items() <= beside.items()
    assert inside["labels"] == LABELS
    assert Preprocess(**inside["preprocess"]) == RECORD
    picture = np.asarray(Image.open(next(photos.rglob("*.png"))))
    x = RECORD.fit(picture) if where == "inside" else RECORD(picture).numpy()
    assert inside["input"] == {"dtype": str(x.dtype), "shape": ["B", *x.shape]}
    with torch.inference_mode():
        expected = checkpoint.model(RECORD(picture)[None])
    np.testing.assert_allclose(
        session.run(None, {"image": x[None]})[0], expected, atol=1e-5
    )


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("to", "suffix", "tolerance"),
    [("openvino", ".xml", 1e-5), ("torch-export", ".pt2", 0), ("aoti", ".pt2", 1e-5)],
)
def test_other_runtimes(
    to: str, suffix: str, tolerance: float, tmp_path: Path, photos: Path
) -> None:
    if to == "aoti" and importlib.util.find_spec("torch._inductor") is None:
        pytest.skip("this torch has no compiler")
    saved(tmp_path / "m.safetensors")
    agree(
        export(
            tmp_path / "m.safetensors", tmp_path / f"out/m{suffix}", to, check=photos
        ),
        tolerance,
    )
    there = {f"m{suffix}", f"m{suffix}.json", *(["m.bin"] if to == "openvino" else [])}
    assert {path.name for path in (tmp_path / "out").iterdir()} == there


@pytest.mark.usefixtures("alone")
def test_another_family(tmp_path: Path, photos: Path) -> None:
    pytest.importorskip("onnxscript")
    source = saved(
        tmp_path / "m.safetensors",
        GMlpConfig(4, 1, 24, 20, image_size=(8, 12), num_classes=3),
    )
    agree(export(source, tmp_path / "m.onnx", "onnx", opset=18, check=photos), 1e-5)
    with pytest.raises(
        UserError,
        match="opset 13 cannot be written for this network: expected 18 to 20",
    ):
        export(source, tmp_path / "n.onnx", "onnx", opset=13)
    with pytest.raises(UserError, match="int8 knows Mixers only, got GMlp"):
        export(source, tmp_path / "n.onnx", "onnx", int8=True)


def test_int8_for_openvino_is_fixed_on_the_images(tmp_path: Path, photos: Path) -> None:
    source = saved(
        tmp_path / "m.safetensors",
        MixerConfig(4, 1, 64, 32, 256, image_size=(8, 12), num_classes=3),
    )
    report = export(source, tmp_path / "m.xml", "openvino", int8=True, calibrate=photos)
    assert 1e-4 < report["rows"][1]["difference"] < 1
    assert report["rows"][1]["mib"] < report["rows"][0]["mib"]
    assert report["images"] == "12 of 12 in photos"


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_the_folder_is_read_without_a_difference(
    to: str, tmp_path: Path, photos: Path
) -> None:
    pytest.importorskip({"timm": "timm", "hf": "transformers"}[to])
    config = MixerConfig(
        2, 4, 64, 32, 256, image_size=(8, 8), num_classes=3, gelu="erf"
    )  # pico2, which timm lacks
    source = saved(tmp_path / "m.safetensors", config, Preprocess((8, 8)))
    report = export(source, tmp_path / "out", to, check=photos)
    agree(report, 0)
    assert (
        "timm lacks this size; whoever reads the folder runs first: from mlp_mixer.compat"
        in report["notes"][0]
    )
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["label_names"]
        == LABELS
    )
    with pytest.raises(
        UserError,
        match="timm and transformers would answer otherwise: .*export to onnx instead",
    ):
        export(saved(source), tmp_path / "other", to)
    assert not (tmp_path / "other").exists()


def test_a_wrong_gelu_is_seen_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong in silence elsewhere: tanh for erf."""
    import dataclasses

    right = targets.onnx_graph

    def wrong(config, *rest, **how):
        return right(dataclasses.replace(config, gelu="tanh"), *rest, **how)

    monkeypatch.setattr(targets, "onnx_graph", wrong)
    source = saved(tmp_path / "m.safetensors")
    with pytest.raises(
        UserError,
        match=r"onnxruntime .* answers otherwise than torch, .* differ by .* is accepted",
    ):
        export(source, tmp_path / "out" / "m.onnx", "onnx")
    assert not list((tmp_path / "out").iterdir())


def test_logits_that_are_no_numbers_are_not_accepted() -> None:
    ours = np.ones((2, 3), np.float32)
    for int8 in (False, True):
        with pytest.raises(UserError, match="answers otherwise"):
            run._judge(
                ours, {"logits": np.full((2, 3), np.nan), "runtime": "x"}, 1e-4, int8
            )


def test_killed_before_the_end_leaves_nothing(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.safetensors")
    (tmp_path / "scratch").mkdir()
    program = (
        "import os, sys; from mlp_mixer.exporting import run; run._answers = lambda *_: os.kill(os.getpid(), 9); "
        "run.export(sys.argv[1], sys.argv[2], 'onnx')"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(source),
        str(tmp_path / "out" / "m.onnx"),
    ]
    done = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(tmp_path / "scratch")}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not list((tmp_path / "out").iterdir())


def test_an_export_that_cannot_be_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "KEY", "another")
    source = saved(tmp_path / "m.safetensors")
    with pytest.raises(
        UserError,
        match="the export to onnx cannot be read back, so nothing was written: KeyError",
    ):
        export(source, tmp_path / "out" / "m.onnx", "onnx")
    assert not list((tmp_path / "out").iterdir())
