"""The examples and the notebook run as they stand (for fewer epochs), and the command
reads what they leave.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import mlp_mixer
from mlp_mixer.cli import run

ROOT = Path(__file__).parents[1]
# Other people's trainers warn of what they themselves do, and of having no GPU.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "examples" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def predicted(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `mlp-mixer predict` says of 20 held-out digits, "right" or "wrong"."""
    test = mlp_mixer.open_dataset("digits").test
    assert test is not None
    pictures = []
    for index in range(20):
        pictures.append(checkpoint.parent / f"{index}.png")
        Image.fromarray(test.image(index)[:, :, 0]).save(pictures[-1])
    capsys.readouterr()
    assert run(["predict", str(checkpoint), *map(str, pictures), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    truth = [test.classes[test.labels[index]] for index in range(20)]
    return [
        "right" if a["pred_class"] == t else "wrong"
        for a, t in zip(answers, truth, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("lightning_module", ["lightning"]),
        ("hf_trainer", ["transformers", "accelerate"]),
    ],
)
def test_what_other_trainers_train_is_a_checkpoint_of_ours(
    name: str,
    needs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in needs:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    accuracy = module(name).main("mine.safetensors", epochs=4)
    assert accuracy > 0.85
    assert [path.name for path in tmp_path.iterdir()] == [
        "mine.safetensors"
    ]  # no logs and states beside it
    assert predicted(tmp_path / "mine.safetensors", capsys).count("right") >= 15


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(
        (ROOT / "docs" / "notebooks" / "own_photos.ipynb").read_text(encoding="utf-8")
    )
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in code), "it is kept without outputs"
    names: dict[str, Any] = {}
    for cell in code:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert names["result"].top1 > 0.85
    assert names["answer"].pred_class in "56789"
    assert {row["same_top1"] for row in names["report"]["rows"]} == {1.0}
    assert (tmp_path / "mine.onnx").is_file()
    assert [
        finding.path for finding in names["bad"] if finding.severity == "error"
    ] == ["5/broken.png"]
    assert not (tmp_path / "photos" / "5" / "broken.png").exists()
