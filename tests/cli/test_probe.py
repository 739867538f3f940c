"""`mlp-mixer probe`, as a person and a program use it, and after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlp_mixer as mm
from mlp_mixer.api import probing
from mlp_mixer.cli import run
from mlp_mixer.evaluation.probe import ProbeRow


def call(*arguments: object) -> int:
    return run(["probe", *map(str, arguments), "--device", "cpu"])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """An untrained network: a random projection of digits is worth something."""
    config = mm.MixerConfig(
        4, 1, 16, 4, 8, image_size=(8, 8), in_channels=1, num_classes=0
    )
    preprocess = mm.Preprocess((8, 8), channels=1, crop_pct=1.0)
    path = tmp_path / "w.safetensors"
    return mm.save(path, mm.MlpMixer(config), preprocess=preprocess)


def write_pictures(path: Path, seed: int) -> None:
    """Write gray pictures of two brightnesses, 20 of each."""
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    noise = rng.integers(0, 60, (40, 8, 8))
    images = (noise + 150 * labels[:, None, None]).astype(np.uint8)
    np.savez(path, x_train=images, y_train=labels)


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    path = tmp_path / "pictures.npz"
    write_pictures(path, 0)
    return str(path)


def test_for_people_and_for_programs(
    weights: Path, pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "probe.json"
    many = ["--data", "digits", "--data", pictures, "--data", "folder:/nowhere"]
    how = ["--shots", "2", "--seeds", "0,1", "--train-images", "100", "--out", out]
    assert call(weights, *many, *how) == 1
    said, err = capsys.readouterr()
    lines = [line.split() for line in said.splitlines()]
    assert [line[0] for line in lines if len(line) > 1][:2] == ["data", "digits"]
    assert any(line[:2] == ["folder:/nowhere", "failed"] for line in lines)
    means = [line for line in lines if line[0] == "mean"]
    assert [line[:5] for line in means] == [["mean", "of", "2", "of", "3"]] * 2
    # On a slow machine the count of images has its own lines.
    assert err.splitlines()[-1].startswith("folder:/nowhere: there is no folder")

    # The file says the same as --json.
    written = json.loads(out.read_text())
    assert call(weights, *many, *how[:-2], "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == written["rows"]
    assert told["means"] == written["means"]
    assert not written["complete"]
    digits, gray, failed = told["rows"]
    assert (digits["n"], digits["n_linear"], gray["n_linear"]) == (
        351,
        100,
        gray["n_train"],
    )
    assert failed == {"data": "folder:/nowhere", "error": failed["error"]}
    mean = (digits["means"]["linear"] + gray["means"]["linear"]) / 2
    assert told["means"]["linear"] == {
        "accuracy": pytest.approx(mean),
        "sources": 2,
    }


def test_it_goes_on_where_it_was_killed(
    weights: Path, pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "probe.json"
    measured: list[str] = []
    real = probing.probe_source

    def counted(checkpoint: Any, data: str, *rest: Any, **how: Any) -> ProbeRow:
        measured.append(data)
        if data == "digits" and measured.count(data) == 1:
            raise KeyboardInterrupt
        return real(checkpoint, data, *rest, **how)

    monkeypatch.setattr(probing, "probe_source", counted)
    many = ["--data", pictures, "--data", "digits"]
    how = ["--shots", "2", "--seeds", "0", "--no-linear", "--out", out]
    assert call(weights, *many, *how) == 130
    half = json.loads(out.read_text())
    assert [row["data"] for row in half["rows"]] == [pictures]
    assert not half["complete"]

    assert call(weights, *many, *how) == 2  # it exists
    assert call(weights, *many, *how, "--resume") == 0
    assert measured == [pictures, "digits", "digits"]
    whole = json.loads(out.read_text())
    assert whole["complete"]
    assert whole["rows"][0] == half["rows"][0]

    # A source whose pictures have changed is measured again, the other is not.
    write_pictures(Path(pictures), 1)
    assert call(weights, *many, *how, "--resume") == 0
    assert measured[3:] == [pictures]
    # Nothing of a file is lost by naming fewer sources.
    assert call(weights, "--data", "digits", *how, "--resume") == 2
    assert call(weights, "--data", "digits", *how, "--overwrite") == 0


def test_a_kill_loses_no_row_that_waits_for_its_turn(
    weights: Path, pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "probe.json"
    how = ["--shots", "2", "--seeds", "0", "--no-linear", "--out", out]
    assert call(weights, "--data", pictures, *how) == 0

    def killed(row: ProbeRow) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mm.probe(
            weights,
            ["digits", pictures],
            shots=[2],
            seeds=[0],
            linear=False,
            out=out,
            resume=True,
            report=killed,
        )
    rows = json.loads(out.read_text())["rows"]
    assert [row["data"] for row in rows] == ["digits", pictures]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "1,x"], "--shots is '1,x': expected whole numbers from 1"),
        (["--seeds", "-1"], "--seeds is '-1'"),
        (["--shots", "none", "--no-linear"], "nothing would be measured"),
        (["--train-images", "1"], "--train-images"),
        (["--l2", "0"], "l2 must be above 0"),
        (["--resume"], "--resume and --overwrite go with --out"),
        (["--out", "rows.csv"], "expected a name that ends in .json"),
        (["--out", "old.json"], "'old.json' exists; choose another name"),
        (["--out", "old.json", "--resume"], "'old.json' holds no probe"),
        (["--out", "broken.json", "--resume"], "cannot read the probe 'broken.json'"),
        (["--out", "f.json", "--resume"], "'f.json' is a folder"),
        (["--out", "x.json", "--resume", "--overwrite"], "give one of them"),
    ],
)
def test_mistakes_are_one_sentence(
    weights: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.json").write_text('{"a": 1}')
    Path("broken.json").write_text('{"mlp_mixer probe"')
    Path("f.json").mkdir()
    assert call(weights, "--data", "digits", *arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err.startswith("error: ")) == ("", 1, True)
    assert message in err
    assert Path("old.json").read_text() == '{"a": 1}'


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shots": [3]}, r"\(shots was \[2\], is now \[3\]\)"),
        ({"seeds": [1]}, "seeds was"),
        ({"train_images": 50, "linear": True}, "linear was False, is now True"),
    ],
)
def test_other_options_do_not_go_on(
    weights: Path, pictures: str, tmp_path: Path, changed: Any, message: str
) -> None:
    out = tmp_path / "probe.json"
    how = {"shots": [2], "seeds": [0], "linear": False, "out": out}
    mm.probe(weights, pictures, **how)
    with pytest.raises(mm.UserError, match=message):
        mm.probe(weights, pictures, **{**how, **changed}, resume=True)
    damaged = json.loads(out.read_text())
    damaged["rows"][0]["accuracies"]["2-shot"]["0"] = "good"
    out.write_text(json.dumps(damaged))
    with pytest.raises(mm.UserError, match="is damaged"):
        mm.probe(weights, pictures, **how, resume=True)


def test_images_that_were_learnt_from_judge_nothing(tmp_path: Path) -> None:
    """A checkpoint is never measured on what it, or its ancestors, have seen."""
    settings = {
        "model.num_blocks": 1,
        "model.hidden_dim": 16,
        "train.epochs": 0.2,
        "train.device": "cpu",
    }
    mm.train("digits", tmp_path / "run", settings=settings)
    own = mm.probe(tmp_path / "run", "digits", shots=[1], seeds=[0], linear=False)
    assert own.rows[0].seen == 0
    source = mm.open_dataset("digits")
    assert isinstance(source.train, mm.ArraySet)
    # The same images as a test split of somebody's own.
    other = mm.Dataset("again", source.train, None, source.train)
    found = mm.probe(tmp_path / "run", other, shots=[1], seeds=[0], linear=False)
    assert "has learnt from all" in found.rows[0].error
    assert not found.complete


def test_sources_in_python() -> None:
    box = mm.load("mixer_nano4.cifar10")
    with pytest.raises(mm.UserError, match="there is no source"):
        mm.probe(box, [])
    pixels = np.zeros((8, 32, 32, 3), np.uint8)
    first, second = (mm.Dataset.from_arrays(pixels, np.arange(8) % 2) for _ in range(2))
    with pytest.raises(mm.UserError, match="two different sources are called 'arrays'"):
        mm.probe(box, [first, second])
