"""A file that --out names is never replaced without --overwrite, whatever the verb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mlp_mixer as mm
from mlp_mixer.cli import run
from mlp_mixer.inference import predict_to_file

MINE = b"mine, and of another program"


def call(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, a picture, a folder of pictures and a run."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    model = mm.create_model(
        "mixer_nano4", num_classes=2, num_blocks=1, hidden_dim=8, image_size=16
    )
    mm.save(folder / "model.safetensors", model, labels=["a", "b"])
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for number in range(6):
        path = folder / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels + number).save(path)
    small = {"model.num_blocks": 1, "model.hidden_dim": 8, "train.device": "cpu"}
    mm.train("digits", folder / "run", settings=small, epochs=0.1)
    return folder


# Of each verb: its arguments but for --out, and what --out is.
VERBS = {
    "explain": (
        ["explain", "model.safetensors", "pictures/a/0.png", "--method", "gradient"],
        "why.png",
    ),
    "augment": (
        ["augment", "--data", "digits", "--count", "1", "--variants", "1"],
        "sheet.png",
    ),
    "figures": (["figures", "model.safetensors"], "drawn"),
    "sample": (["data", "sample", "digits", "--count", "1"], "some"),
    "runs": (["runs", "run"], "compare.html"),
    "report": (["report", "run"], "page.html"),
    "check": (["data", "check", "pictures", "--workers", "1"], "checked"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_replaced_without_a_word(
    verb: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, name = VERBS[verb]
    monkeypatch.chdir(place)
    out = Path(name)
    done = call(*arguments, "--out", out)
    assert done in (0, 1), capsys.readouterr().err
    written = sorted(out.iterdir()) if out.is_dir() else [out]
    assert written
    for path in written:
        # One file of several is enough, whichever it is.
        for other in written:
            other.unlink(missing_ok=True)
        path.write_bytes(MINE)
        capsys.readouterr()
        assert call(*arguments, "--out", out) == 2
        assert f"{str(path)!r} exists; choose another name" in capsys.readouterr().err
        assert path.read_bytes() == MINE
        assert [other for other in written if other.exists()] == [path]
    assert call(*arguments, "--out", out, "--overwrite") == done
    assert written[-1].read_bytes() != MINE


def test_the_page_of_a_run_is_written_anew(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the run's own, wherever the working folder is; the run's other files stay."""
    monkeypatch.chdir(place / "run")
    for more in ([], [], ["--out", "report.html"]):
        assert call("report", place / "run", *more) == 0
    before = Path("config.json").read_bytes()
    assert call("report", place / "run", "--out", "config.json") == 2
    assert Path("config.json").read_bytes() == before


def test_answers_are_not_replaced(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = place / "model.safetensors"
    command = ["predict", str(weights), str(place / "pictures")]
    kinds: dict[str, list[str]] = {
        "answers.csv": [],
        "pooled.npz": ["--features", "pre_logits"],
    }
    for name, more in kinds.items():
        out = tmp_path / name
        assert call(*command, *more, "--out", out) == 0
        before = out.read_bytes()
        # A file without answers left is complete: there is nothing to go on with.
        for again in ([], ["--resume"] if not more else []):
            assert call(*command, *more, "--out", out, *again) == 2
            assert f"{str(out)!r} exists; choose" in capsys.readouterr().err
        assert call(*command, *more, "--out", out, "--overwrite", "--top", 1) == 0
        assert (out.read_bytes() == before) == bool(more)
        # What another program wrote is not replaced even then.
        out.write_bytes(MINE)
        assert call(*command, *more, "--out", out, "--overwrite") == 2
        assert out.read_bytes() == MINE
        out.write_bytes(b"")
        assert call(*command, *more, "--out", out) == 0


def test_a_stopped_replacement_goes_on(place: Path, tmp_path: Path) -> None:
    """The old answers stand until the new ones are complete."""
    predictor = mm.Predictor(place / "model.safetensors", top=1)
    pictures = sorted((place / "pictures").rglob("*.png"))
    out = tmp_path / "answers.jsonl"
    predict_to_file(predictor, pictures[:2], out)
    before = out.read_bytes()

    def stop(answer: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_file(predictor, pictures, out, overwrite=True, report=stop)
    assert out.read_bytes() == before
    assert predict_to_file(predictor, pictures, out, resume=True).pictures == 6
    assert len(out.read_text().splitlines()) == 6
