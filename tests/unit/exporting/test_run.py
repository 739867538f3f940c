"""Every export answers as the network does, from picture files on.

One that gives other answers is not written.
"""

from __future__ import annotations

import dataclasses
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

from mlp_mixer import MixerConfig, Preprocess, UserError, load, save
from mlp_mixer.exporting import export, targets
from mlp_mixer.models import VARIANTS, build_network
from mlp_mixer.models.gmlp import GMlpConfig
from mlp_mixer.runtime.onnx_graph import _int8_sums_saturate

for _package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(_package)

# openvino has no LayerNorm for such processors.
beyond_sse41 = pytest.mark.skipif(
    os.environ.get("ONEDNN_MAX_CPU_ISA") == "SSE41", reason="no openvino for SSE4.1"
)

CONFIG = MixerConfig(4, 1, 24, 10, 40, image_size=(8, 12), num_classes=3, gelu="erf")
LABELS = ["cat", "dog", "Vögel"]
RECORD = Preprocess((8, 12), mean=(0.1, 0.4, 0.7), std=(0.2, 0.5, 0.9))


def saved(path: Path, config: Any = CONFIG, record: Preprocess = RECORD) -> Path:
    """A checkpoint without a parameter at its initial value."""
    model = build_network(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return save(path, model, preprocess=record, labels=LABELS)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures of another size than the network's, in one folder per class."""
    random = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "photos" / LABELS[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20, 33, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No new process can import this package."""
    trap = tmp_path / "trap" / "mlp_mixer"
    trap.mkdir(parents=True)
    code = "raise ImportError('the export needs mlp_mixer')"
    (trap / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "trap"))


def agree(report: dict[str, Any], tolerance: float) -> None:
    """The export's logits differ from torch's by at most the tolerance."""
    ours, theirs = report["rows"]
    assert theirs["difference"] <= tolerance
    assert ours["difference"] == 0
    assert ours["same_top1"] == theirs["same_top1"] == 1
    assert theirs["top1"] == ours["top1"] is not None
    assert theirs["mib"] > 0 < theirs["ms_batch_8"]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("where", ["inside", "beside"])
def test_onnx_from_picture_to_answer(where: str, tmp_path: Path, photos: Path) -> None:
    import onnxruntime

    source = saved(tmp_path / "m.safetensors")
    out = tmp_path / "out" / "m.onnx"
    report = export(source, out, "onnx", preprocess=where, check=photos)
    agree(report, 1e-5)
    assert report["images"] == "12 of 12 in photos"
    written = sorted(path.name for path in out.parent.iterdir())
    assert written == ["m.onnx", "m.onnx.json"]

    checkpoint = load(source)
    right = 0
    for path in photos.rglob("*.png"):
        x = RECORD(np.asarray(Image.open(path)))[None]
        best = int(checkpoint.model(x).argmax())
        right += LABELS[best] == path.parent.name
    assert report["rows"][1]["top1"] == right / 12 > 0

    session = onnxruntime.InferenceSession(out)
    metadata = session.get_modelmeta().custom_metadata_map
    inside = json.loads(metadata["mlp_mixer"])
    beside = json.loads(Path(f"{out}.json").read_text())
    assert inside.items() <= beside.items()
    assert inside["labels"] == LABELS
    assert Preprocess(**inside["preprocess"]) == RECORD
    picture = np.asarray(Image.open(next(photos.rglob("*.png"))))
    x = RECORD.fit(picture) if where == "inside" else RECORD(picture).numpy()
    assert inside["input"] == {"dtype": str(x.dtype), "shape": ["B", *x.shape]}
    with torch.inference_mode():
        expected = checkpoint.model(RECORD(picture)[None])
    (logits,) = session.run(None, {"image": x[None]})
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("to", "suffix", "tolerance"),
    [
        pytest.param("openvino", ".xml", 1e-5, marks=beyond_sse41),
        ("torch-export", ".pt2", 5e-6),
        ("aoti", ".pt2", 1e-5),
    ],
)
def test_other_runtimes(
    to: str, suffix: str, tolerance: float, tmp_path: Path, photos: Path
) -> None:
    if to == "aoti" and importlib.util.find_spec("torch._inductor") is None:
        pytest.skip("this torch has no compiler")
    source = saved(tmp_path / "m.safetensors")
    out = tmp_path / "out" / f"m{suffix}"
    agree(export(source, out, to, check=photos), tolerance)
    expected = {f"m{suffix}", f"m{suffix}.json"}
    if to == "openvino":
        expected.add("m.bin")
    assert {path.name for path in out.parent.iterdir()} == expected


@pytest.mark.usefixtures("alone")
def test_another_family(tmp_path: Path, photos: Path) -> None:
    pytest.importorskip("onnxscript")
    config = GMlpConfig(4, 1, 24, 20, image_size=(8, 12), num_classes=3)
    source = saved(tmp_path / "m.safetensors", config)
    agree(export(source, tmp_path / "m.onnx", "onnx", opset=18, check=photos), 1e-5)
    said = "opset 13 cannot be written for this network: expected 18 to 20"
    with pytest.raises(UserError, match=said):
        export(source, tmp_path / "n.onnx", "onnx", opset=13)
    with pytest.raises(UserError, match="int8 knows Mixers only, got GMlp"):
        export(source, tmp_path / "n.onnx", "onnx", int8=True)


@beyond_sse41
@pytest.mark.parametrize(
    ("images", "said"),
    [
        (["check"], None),
        (["calibrate"], "its images were used for the comparison only"),
        (["check", "calibrate"], "its images were not read"),
        ([], None),
    ],
)
def test_openvino_in_int8_needs_no_images(
    images: list[str], said: str | None, tmp_path: Path, photos: Path
) -> None:
    """Its file says how it is computed, to whoever reads it."""
    config = MixerConfig(4, 1, 64, 32, 256, image_size=(8, 12), num_classes=3)
    source = saved(tmp_path / "m.safetensors", config)
    shown: dict[str, Any] = dict.fromkeys(images, photos)
    out = tmp_path / "m.xml"
    try:
        report = export(source, out, "openvino", int8=True, **shown)
    except UserError:
        # It is refused where its own runtime cannot compute it, and nothing is left.
        assert _int8_sums_saturate(), "with VNNI it computes"
        assert not out.exists()
        pytest.skip("openvino multiplies weights of 8 bits on newer processors only")
    ours, theirs = report["rows"]
    assert 1e-5 < theirs["difference"] < 0.05
    assert theirs["mib"] < ours["mib"]
    expected = "12 of 12 in photos" if images else "8 of noise and 8 digits"
    assert report["images"] == expected
    told = [note for note in report["notes"] if "--calibrate" in note]
    assert len(told) == (said is not None)
    assert all(note.endswith(str(said)) for note in told)
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(out), "CPU")
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 32


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_the_folder_is_read_without_a_difference(
    to: str, tmp_path: Path, photos: Path
) -> None:
    pytest.importorskip({"timm": "timm", "hf": "transformers"}[to])
    # timm has no network of this size.
    pico2 = VARIANTS["mixer_pico2"]
    config = dataclasses.replace(pico2, num_classes=3, gelu="erf")
    source = saved(tmp_path / "m.safetensors", config, Preprocess((8, 8)))
    report = export(source, tmp_path / "out", to, check=photos)
    agree(report, 5e-6)
    said = (
        "timm lacks this size; before reading the folder, run in Python: from mlp_mixer"
    )
    assert said in report["notes"][0]
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["label_names"] == LABELS
    said = "timm and transformers would give other answers: .*export to onnx instead"
    with pytest.raises(UserError, match=said):
        export(saved(source), tmp_path / "other", to)
    assert not (tmp_path / "other").exists()


def test_a_wrong_gelu_is_seen_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong in silence elsewhere: tanh for erf."""
    right = targets.onnx_graph

    def wrong(config: MixerConfig, *rest: Any, **how: Any) -> Any:
        return right(dataclasses.replace(config, gelu="tanh"), *rest, **how)

    monkeypatch.setattr(targets, "onnx_graph", wrong)
    source = saved(tmp_path / "m.safetensors")
    said = r"onnxruntime .* gives other answers than torch, .* by .* is accepted"
    with pytest.raises(UserError, match=said):
        export(source, tmp_path / "out" / "m.onnx", "onnx")
    assert not list((tmp_path / "out").iterdir())


def test_killed_before_the_end_leaves_nothing(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.safetensors")
    (tmp_path / "scratch").mkdir()
    # The process dies where the export would be run, before it is moved.
    program = """
import os, sys
from mlp_mixer.exporting import run
run.run_export = lambda *_: os.kill(os.getpid(), 9)
run.export(sys.argv[1], sys.argv[2], "onnx")
"""
    out = tmp_path / "out" / "m.onnx"
    command = [sys.executable, "-c", program, str(source), str(out)]
    env = {**os.environ, "TMPDIR": str(tmp_path / "scratch")}
    process = subprocess.run(command, env=env, check=False)
    assert process.returncode == -signal.SIGKILL
    assert not list(out.parent.iterdir())


def test_an_export_that_cannot_be_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "KEY", "another")
    source = saved(tmp_path / "m.safetensors")
    said = "the export to onnx cannot be read back, so nothing was written: KeyError"
    with pytest.raises(UserError, match=said):
        export(source, tmp_path / "out" / "m.onnx", "onnx")
    assert not list((tmp_path / "out").iterdir())
