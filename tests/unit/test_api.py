"""The front door: `import mlp_mixer as mm`, and each verb does its work on real digits."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mlp_mixer as mm
from mlp_mixer.recipes.resolve import assignments, resolve_config, sweep_runs

TINY = {
    "model.num_blocks": 1,
    "model.hidden_dim": 16,
    "train.epochs": 1,
    "train.device": "cpu",
}
VERBS = ["train", "finetune", "evaluate", "predict", "export"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on digits; its folder is what `load` takes."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    mm.train("digits", out, settings=TINY)
    return out


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).save(path)
    return paths


# Training


def test_train_leaves_a_run_and_returns_its_best_row(
    digits: Path, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = []
    out = tmp_path / "run"
    best = mm.train("digits", out, settings=TINY, report=rows.append)
    assert best["epoch"] > 0
    assert 0 <= best["top1"] <= 1
    kinds = [row["kind"] for row in rows]
    assert kinds[0] == "start"
    assert {"train", "eval"} <= set(kinds)
    # The same configuration gives the same bytes.
    assert (out / "best.safetensors").read_bytes() == (
        digits / "best.safetensors"
    ).read_bytes()
    with pytest.raises(mm.UserError, match="already holds a run"):
        mm.train("digits", out, settings=TINY)
    again = mm.train(out / "config.json", out, resume=True)
    assert again["top1"] == best["top1"]


def test_train_takes_a_config_and_an_open_dataset(tmp_path: Path) -> None:
    config = mm.get_recipe("digits")
    opened = mm.open_dataset("digits")
    fewer = mm.Dataset(
        spec="mine",
        train=mm.ArraySet(
            opened.train.images[:100], opened.train.labels[:100], opened.train.classes
        ),
        test=None,
    )
    mm.train(config, tmp_path / "run", data=fewer, settings=TINY, batch_size=32)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["config"]["data"]["source"] == "mine"
    assert written["config"]["train"]["batch_size"] == 32
    # The learning rate followed the batch, and the run says so.
    assert any("optim.lr" in note for note in written["notes"])


def test_a_tracker_follows(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    mm.train("digits", tmp_path / "run", settings=TINY, track="tensorboard")
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    with pytest.raises(mm.UserError, match="unknown tracker 'tensorbord'"):
        mm.train("digits", tmp_path / "new", settings=TINY, track="tensorbord")


def test_finetune_keeps_what_the_weights_know(digits: Path, tmp_path: Path) -> None:
    settings = {"train.epochs": 1, "train.device": "cpu"}
    best = mm.finetune(digits, "digits", tmp_path / "new", settings=settings)
    assert best["top1"] > 0.1
    new = mm.load(tmp_path / "new")
    assert new.provenance["recipe"] == "finetune_auto"
    assert new.preprocess == mm.load(digits).preprocess


def test_a_linear_probe_trains_the_head_only(digits: Path, tmp_path: Path) -> None:
    best = mm.finetune(digits, "digits", tmp_path / "probe", frozen=True)
    assert best["top1"] > 0.3
    before = mm.load(digits).model.state_dict()
    after = mm.load(tmp_path / "probe").model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}


def test_a_sweep_returns_the_best_run(digits: Path, tmp_path: Path) -> None:
    best = mm.finetune(
        digits,
        "digits",
        tmp_path,
        settings={"train.steps": 10, "train.device": "cpu", "data.val_fraction": 0.5},
        sweep="optim.lr=1e-9,0.03",
    )
    runs = {path.name for path in tmp_path.iterdir()}
    assert runs == {"optim.lr=1e-9", "optim.lr=0.03"}
    assert Path(best["run"]).parent == tmp_path
    top1 = [mm.load(path).provenance["measured"]["top1"] for path in tmp_path.iterdir()]
    assert best["top1"] == pytest.approx(max(top1), abs=1e-4)


def test_a_mistyped_value_of_a_sweep_is_refused_before_the_first_run(
    digits: Path, tmp_path: Path
) -> None:
    with pytest.raises(mm.UserError, match="expected a number, got 'fast'"):
        mm.finetune(digits, "digits", tmp_path, sweep="optim.lr=0.01,fast")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(mm.UserError, match="expected FIELD=A,B,C"):
        sweep_runs(mm.get_recipe("digits"), tmp_path, "optim.lr")


def test_scratch_chooses_a_recipe_by_the_images(tmp_path: Path) -> None:
    settings = {"train.steps": 2, "train.device": "cpu"}
    mm.finetune("scratch", "digits", tmp_path / "new", settings=settings)
    assert mm.load(tmp_path / "new").provenance["recipe"] == "fashion_mnist"


# Use


def test_evaluate_takes_paths_checkpoints_and_datasets(digits: Path) -> None:
    result = mm.evaluate(digits, "digits", device="cpu")
    # About a fifth of 1,797 images.
    assert result.n == 351
    assert result.seen == 0
    low, high = result.interval
    assert low < result.top1 < high
    assert result.split.startswith("test (20 % held out")
    loaded = mm.load(digits)
    same = mm.evaluate(loaded, mm.open_dataset("digits"), device="cpu")
    assert same.top1 == pytest.approx(result.top1, abs=1 / 351)
    flipped = mm.evaluate(digits, "digits", tta="flip", batch_size=64, device="cpu")
    assert flipped.n == result.n
    every = mm.evaluate(digits, "digits", split="all")
    assert (every.n, every.seen) == (1797, 1797 - 351)


def test_predict_answers_for_pictures_in_all_forms(
    digits: Path, pictures: list[Path]
) -> None:
    a, b = (str(path) for path in pictures)
    found = mm.predict(digits, [a, "nowhere.png", b], top=3)
    assert [answer.path for answer in found] == [a, "nowhere.png", b]
    assert isinstance(found[1], mm.Failure)
    assert isinstance(found[0], mm.Prediction)
    assert len(found[0].top) == 3
    pixels = np.array(Image.open(a))
    for picture in (a, pictures[0], pixels, Image.open(a), pictures[0].read_bytes()):
        (answer,) = mm.predict(mm.load(digits), picture)
        assert isinstance(answer, mm.Prediction)
        assert answer.pred_class == found[0].pred_class
        assert answer.pred_score == pytest.approx(found[0].pred_score, abs=5e-6)


def test_predict_without_a_checkpoint_uses_the_bundled_one(
    pictures: list[Path],
) -> None:
    (answer,) = mm.predict(pictures[0])
    assert isinstance(answer, mm.Prediction)
    assert answer.pred_class in (mm.Predictor().checkpoint.labels or ())
    assert len(mm.predict(pictures)) == 2


def test_predictor_and_inference_model_agree(
    digits: Path, pictures: list[Path]
) -> None:
    answer = mm.Predictor(digits)(pictures[0])
    scores = mm.inference_model(digits, pictures[0])
    assert scores["pred_class"] == answer.pred_class
    assert scores["pred_score"] == pytest.approx(answer.pred_score, abs=5e-6)


@pytest.mark.parametrize("loaded", [False, True])
def test_export_takes_paths_and_checkpoints(
    digits: Path, tmp_path: Path, loaded: bool
) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    source = mm.load(digits) if loaded else digits
    report = mm.export(source, tmp_path / "m.onnx", to="onnx")
    assert report["rows"][-1]["difference"] < 1e-4
    assert (tmp_path / "m.onnx").is_file()
    with pytest.raises(mm.UserError, match="exists"):
        mm.export(source, tmp_path / "m.onnx")


# The other names of the contract


def test_models_are_made_saved_loaded_resized_and_converted(tmp_path: Path) -> None:
    model = mm.create_model("mixer_nano4", num_blocks=1, hidden_dim=8, num_classes=3)
    assert isinstance(model, mm.MlpMixer)
    assert mm.cost(model.config).params == sum(p.numel() for p in model.parameters())
    path = mm.save(tmp_path / "m.safetensors", model, labels=["a", "b", "c"])
    checkpoint = mm.load(path)
    assert checkpoint.labels == ("a", "b", "c")
    assert mm.resize(checkpoint, 64).model.config.image_size == (64, 64)
    done = mm.convert(path, tmp_path / "m.npz", to="google", force=True)
    assert done.path.is_file()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_fuse_without_a_gpu_returns_the_model_with_a_warning() -> None:
    model = mm.create_model("mixer_nano4", num_blocks=1, hidden_dim=8, num_classes=3)
    with pytest.warns(UserWarning, match="there is no CUDA device"):
        assert mm.fuse(model) is model


def test_recipes_models_datasets_and_pixels_have_names(pictures: list[Path]) -> None:
    assert "digits" in mm.list_recipes()
    assert mm.get_recipe("digits").data.source == "digits"
    assert "mixer_b16" in mm.list_models("mixer_b*")
    opened = mm.open_dataset("digits")
    assert len(opened.train.classes) == 10
    pixels = mm.decode_image(pictures[0], channels=1)
    assert pixels.shape == (9, 9, 1)
    assert mm.Preprocess((8, 8), channels=1)(pixels).shape == (1, 8, 8)


def test_few_shot_accuracy_of_features() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 4)) + 5 * labels[:, None]
    found = mm.fewshot_accuracy(
        features[:20], labels[:20], features[20:], labels[20:], shots=5, seed=0
    )
    assert found > 0.9


# Names


def test_importing_modules_never_hides_a_verb() -> None:
    """A module that is called like a function would replace it."""
    script = """
import pkgutil, importlib, mlp_mixer as mm
import mlp_mixer.training.loop, mlp_mixer.evaluation.accuracy, mlp_mixer.exporting.run
import mlp_mixer.api.learn, mlp_mixer.api.use, mlp_mixer.inference.predictor
import mlp_mixer.weights.convert, mlp_mixer.weights.resize, mlp_mixer.cli
for room in pkgutil.iter_modules(mm.__path__, "mlp_mixer."):
    if room.name != "mlp_mixer.__main__":
        importlib.import_module(room.name)
import types
for name in mm.__all__:
    assert not isinstance(getattr(mm, name), types.ModuleType), name
assert callable(mm.train) and callable(mm.evaluate) and callable(mm.export)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_stranger_s_constructor_is_no_name_of_ours() -> None:
    with pytest.raises(AttributeError, match=r"did you mean MlpMixer .*create_model"):
        _ = mm.MLPMixer  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"lucidrains\.MLPMixer3D"):
        _ = mm.MLPMixer3D  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="has no attribute 'frobnicate'$"):
        _ = mm.frobnicate  # type: ignore[attr-defined]


def test_the_old_name_of_a_stranger_s_constructor_warns_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            found = mm.MLP_Mixer  # type: ignore[attr-defined]
    assert callable(found)
    (warning,) = caught
    assert warning.category is DeprecationWarning
    assert "default widths are lavish619's, not the paper's" in str(warning.message)


# Mistakes


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: mm.train("digts", "x"), "did you mean 'digits'"),
        (
            lambda: mm.train("digits", "x", settings={"train.epoch": 1}),
            "'train.epochs'",
        ),
        (lambda: mm.train("digits", "x", settings="epochs"), "expected FIELD=VALUE"),
        (
            lambda: mm.train("digits", "x", settings={"train.epochs": {}}),
            "train.epochs",
        ),
        (
            lambda: mm.train("digits", "x", settings={"train.epochs": object()}),
            "cannot set 'train.epochs' to",
        ),
        (lambda: mm.train("digits", "x", data="digitz"), "did you mean 'digits'"),
        (lambda: mm.train("nowhere.json", "x"), "cannot read the configuration"),
        (lambda: mm.finetune("nowhere.npz", "digits", "x"), "no checkpoint at"),
        (lambda: mm.finetune("scratch", "digits", "x", frozen=True), "linear probe"),
        (
            lambda: mm.finetune("w.npz", "digits", "x", frozen=True, resume=True),
            "linear probe",
        ),
        (
            lambda: mm.finetune("scratch", "digits", "x", recipe="paper"),
            "goes with --recipe auto",
        ),
        (lambda: mm.evaluate("nowhere.npz", "digits"), "no checkpoint at"),
        (lambda: mm.evaluate("x", "digits", split="tst"), "did you mean 'test'"),
        (lambda: mm.evaluate("x", "digits", tta="flp"), "did you mean 'flip'"),
        (lambda: mm.evaluate("x", "digits", device="gpu9"), "cannot use the device"),
        (lambda: mm.predict("nowhere.npz", "a.png"), "no checkpoint at"),
        (lambda: mm.predict("a.png", device="gpu9"), "cannot use the device"),
        (lambda: mm.predict("a.png", top=0), "top must be at least 1"),
        (lambda: mm.export("nowhere.npz", "m.onnx"), "no checkpoint at"),
        (lambda: mm.export("nowhere.npz", "m.onnx", to="onxx"), "did you mean 'onnx'"),
    ],
)
def test_mistakes_end_in_one_sentence(
    wrong: Any, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mm.UserError, match=re.escape(sentence)) as caught:
        wrong()
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_settings_are_texts_or_exact_values() -> None:
    assert assignments("train.epochs=2") == ["train.epochs=2"]
    assert assignments(["a=1", "b=2"]) == ["a=1", "b=2"]
    config, _ = resolve_config(
        "digits",
        data="/none, such",
        settings={"model.init": Path("/a,b.pt"), "augment.area": (0.5, 1)},
    )
    assert config.data.source == "/none, such"
    assert config.model.init == "/a,b.pt"
    assert config.augment.area == (0.5, 1.0)


# Examples


def example(verb: str) -> str:
    """The indented program in a verb's docstring."""
    docstring = inspect.getdoc(getattr(mm, verb)) or ""
    found = re.search(r"(?:^ {4}.*\n|^\n)+", docstring, flags=re.M)
    assert found is not None
    return inspect.cleandoc(found[0])


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_each_verb_runs(
    verb: str,
    digits: Path,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = example(verb)
    assert program.startswith("import mlp_mixer as mm\n")
    assert f"mm.{verb}(" in program
    assert len([line for line in program.splitlines() if line]) <= 5
    if verb == "export":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    # Small stand-ins for what the program names.
    if verb != "train":
        shutil.copytree(digits, "runs/digits")
    for name, small in {
        "epochs=4": "epochs=0.1",
        "mixer_b16.goog_in21k": "runs/digits",
        "folder:photos": "digits",
    }.items():
        program = program.replace(name, small)
    capsys.readouterr()
    exec(compile(program, f"<example of {verb}>", "exec"), {})
    assert verb == "train" or capsys.readouterr().out
