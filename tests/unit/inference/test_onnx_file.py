"""Files of `export --to onnx` as predictors: the answers of torch, one sentence else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlp_mixer import Checkpoint, LightPredictor, Predictor, UserError, export, save
from mlp_mixer.cli import run
from mlp_mixer.inference.light import choose_predictor

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def native(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return save(
        tmp_path / "m.safetensors",
        checkpoint.model,
        preprocess=checkpoint.preprocess,
        labels=checkpoint.labels,
    )


@pytest.fixture
def exported(native: Path) -> Path:
    path = native.with_suffix(".onnx")
    export(native, path, preprocess="inside")
    return path


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_the_answers_are_torchs(where: str, native: Path, pictures: list[Path]) -> None:
    path = native.with_name(f"{where}.onnx")
    export(native, path, preprocess=where)
    light = LightPredictor(path, top=3)
    assert light.engine == "onnxruntime"
    full = Predictor(native, top=3)
    for ours, theirs in zip(
        light.predict(pictures), full.predict(pictures), strict=True
    ):
        names = [[c.name for c in each.top] for each in (ours, theirs)]  # type: ignore[union-attr]
        assert names[0] == names[1]
        assert ours.pred_score == pytest.approx(theirs.pred_score, abs=1e-4)  # type: ignore[union-attr]


def test_the_command_answers_and_writes(
    exported: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported.with_name("answers.json")
    assert run(["predict", str(exported), *map(str, pictures), "--out", str(out)]) == 0
    assert run(["predict", str(exported), *map(str, pictures), "--json"]) == 0
    printed = capsys.readouterr().out.partition("\n")[2]
    assert json.loads(printed) == json.loads(out.read_text(encoding="utf-8"))


def test_an_export_without_a_classifier(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.model.reset_classifier(0)
    native = save(tmp_path / "m.safetensors", checkpoint.model)
    export(native, tmp_path / "m.onnx")
    with pytest.raises(UserError, match="has no classifier and cannot name classes"):
        LightPredictor(tmp_path / "m.onnx")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it raises
from mlp_mixer.cli import run
sys.exit(run(["predict", *sys.argv[1:]]))
"""


def test_no_part_of_the_way_imports_torch(exported: Path, pictures: list[Path]) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, exported, pictures[0]]
    subprocess.run(command, check=True)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cuda"},
        {"engine": "openvino"},
        {"larger": "tile"},
        {"key": "teacher"},
        {"features": True},
    ],
    ids=str,
)
def test_what_an_export_cannot_do(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="gives answers on the CPU"):
        choose_predictor("m.onnx", ["a.png"], **options)


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    graph = onnx.load(path)
    (entry,) = (each for each in graph.metadata_props if each.key == "mlp_mixer")
    about = json.loads(entry.value)
    change(about)
    entry.value = json.dumps(about)
    other = path.with_name("changed.onnx")
    onnx.save(graph, other)
    return other


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.pop("preprocess"),
        lambda about: about.pop("labels"),
        lambda about: about["labels"].pop(),
        lambda about: about["preprocess"].update(image_size=[8, 8]),
        lambda about: about["preprocess"].update(resize="squash"),
        lambda about: about.update(scores="odds"),
        lambda about: about.update(thresholds=[0.5]),
    ],
)
def test_a_wrong_description_is_a_sentence(
    change: Callable[[dict[str, Any]], None], exported: Path
) -> None:
    with pytest.raises(UserError):
        LightPredictor(changed(exported, change))


def test_other_files_are_sentences(exported: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"no graph")
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(exported.read_bytes()[:2000])
    foreign = tmp_path / "foreign.onnx"
    graph = onnx.load(exported)
    del graph.metadata_props[:]
    onnx.save(graph, foreign)
    for path, words in {
        junk: "cannot read",
        torn: "cannot read",
        tmp_path / "nowhere.onnx": "there is no file",
        foreign: "does not say how to prepare its images",
    }.items():
        with pytest.raises(UserError, match=words):
            LightPredictor(path)


def test_without_onnxruntime_the_sentence_says_what_to_do(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="run pip install onnxruntime"):
        LightPredictor(exported)
