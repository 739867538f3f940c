"""Folders and lists of TIFFs of bands, from the check to the explanation."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlp_mixer as mm
from mlp_mixer.cli import run
from mlp_mixer.data import open_dataset
from mlp_mixer.data.pictures import read_pictures
from mlp_mixer.images.opening import Bounds
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.images.worker import Budget, Job, answer

from ..images.tiffs import tiff

TINY = {
    "model.name": "mixer_pico2",
    "model.image_size": 16,
    "model.num_blocks": 1,
    "model.hidden_dim": 8,
    "model.tokens_mlp_dim": 4,
    "model.channels_mlp_dim": 8,
    "model.drop_path": 0.0,
    "data.workers": 0,
    "train.threads": 1,
    "train.epochs": 1,
    "train.batch_size": 8,
}


def plant(root: Path, bands: int, kind: str = "u1", count: int = 12) -> Path:
    """Write a folder and a list of images whose class is the brighter half of bands."""
    dice = np.random.default_rng(bands)
    rows = []
    for number in range(count):
        label = ("low", "high")[number % 2]
        image = dice.random((20, 18, bands)) / 3
        half = bands // 2
        image[..., half:] += 0.5 * (label == "high")
        image[..., :half] += 0.5 * (label == "low")
        scale = 1 if kind[0] == "f" else np.iinfo(kind).max
        path = root / label / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff([((image * scale).astype(kind), {284: 1 + number % 2})]))
        rows.append((f"{label}/{number}.tif", label))
    with (root / "list.csv").open("w") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return root


@pytest.mark.parametrize(("bands", "kind"), [(2, "u2"), (5, "u1"), (12, "f4")])
def test_tiffs_of_bands_from_the_check_to_the_report(
    tmp_path: Path, bands: int, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    root = plant(tmp_path / "data", bands, kind)
    listing = f"list:{root / 'list.csv'}"
    for source in (str(root), listing):
        out = tmp_path / f"page{len(source)}"
        assert run(["data", "check", source, "--workers", "1", "--out", str(out)]) == 0
        assert "data:image/jpeg" in (out / "check.html").read_text()
        assert open_dataset(source).train.channels == bands
    out = tmp_path / "run"
    mm.train("digits", out, settings={**TINY, "data.source": str(root)})
    # A set of arrays of the same pixels is answered as the files are.
    images = open_dataset(str(root)).all()
    arrays = mm.Dataset.from_arrays(
        np.stack([images.image(index) for index in range(len(images))]),
        images.labels,
        images.classes,
    )
    of_files = mm.evaluate(out, str(root), split="all")
    # The order of their sums differs.
    same = pytest.approx(of_files.loss, abs=1e-5)
    assert mm.evaluate(out, arrays, split="all").loss == same
    assert mm.evaluate(out, listing, split="all").loss == same
    paths = [str(root / images.name(index)) for index in range(3)]
    predictor = mm.Predictor(out)
    for index, path in enumerate(paths):
        expected = predictor(images.image(index)).pred_score
        assert predictor(path).pred_score == pytest.approx(expected, abs=1e-6)
        assert predictor(Path(path).read_bytes()).pred_score == pytest.approx(
            expected, abs=1e-6
        )
    assert run(["predict", str(out), *paths, "--json"]) == 0
    assert run(["explain", str(out), paths[0], "--out", str(tmp_path / "e.png")]) == 0
    assert run(["report", str(out)]) == 0
    augmented = ["--out", str(tmp_path / "a.png"), "--recipe", "digits"]
    assert run(["augment", "--data", str(root), *augmented]) == 0
    sample = tmp_path / "sample"
    assert run(["data", "sample", str(root), "--out", str(sample), "--count", "2"]) == 0
    assert run(["predict", str(out), *map(str, sample.glob("*.npy"))]) == 0
    assert run(["data", "shard", str(root), str(tmp_path / "shards")]) == 0
    shards = mm.evaluate(out, f"shards:{tmp_path / 'shards'}", split="all")
    assert shards.loss == same
    assert "Traceback" not in capfd.readouterr().err


def test_an_export_asks_for_all_bands(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    root = plant(tmp_path / "data", 5)
    settings = {**TINY, "data.source": str(root)}
    mm.train("digits", tmp_path / "run", settings=settings)
    assert (
        run(["export", str(tmp_path / "run"), str(tmp_path / "m.onnx"), "--to", "onnx"])
        == 0
    )
    told = json.loads((tmp_path / "m.onnx.json").read_text())
    assert len(told["preprocess"]["mean"]) == 5


@pytest.mark.parametrize("bands", [2, 4, 7])
def test_a_file_of_other_bands_is_refused_by_check_and_reader(
    tmp_path: Path, bands: int, capfd: pytest.CaptureFixture[str]
) -> None:
    root = plant(tmp_path / "data", 5)
    odd = np.random.default_rng(0).integers(0, 255, (20, 18, bands), np.uint8)
    (root / "low" / "odd.tif").write_bytes(tiff([(odd, {})]))
    Image.new("RGB", (20, 18), "red").save(root / "low" / "photo.png")
    assert run(["data", "check", str(root), "--workers", "1", "--fix"]) == 1
    told = capfd.readouterr().out
    assert f"odd.tif: has {bands} bands: expected an image of 5" in told
    assert "photo.png: is no TIFF" in told
    # Which of them is right only a person knows.
    assert (root / "low" / "odd.tif").exists()
    images = open_dataset(str(root)).all()
    assert images.channels == 5
    names = [images.name(index) for index in range(len(images))]
    for name, message in (
        ("odd.tif", "expected an image of 5"),
        ("photo.png", "no TIFF"),
    ):
        with pytest.raises(mm.UserError, match=message):
            images.image(names.index(f"low/{name}"))


@pytest.mark.parametrize("first", ["picture", "broken", "gray", "rgba"])
def test_the_first_file_that_can_be_read_decides(tmp_path: Path, first: str) -> None:
    root = plant(tmp_path / "data", 5)
    place = root / "high" / "0.tif"
    if first == "broken":
        place.write_bytes(b"II*\0garbage")
    else:
        mode = {"picture": "RGB", "gray": "L", "rgba": "RGBA"}[first]
        Image.new(mode, (18, 20)).save(place)
    images = open_dataset(str(root)).train
    assert images.channels == (5 if first == "broken" else 3)
    pictures, _ = read_pictures(root)
    assert pictures.channels == images.channels


def test_lists_take_array_files_and_several_labels(tmp_path: Path) -> None:
    lines = []
    for number in range(6):
        image = np.full((5, 9, 8), 40 * number, np.uint8)
        np.save(tmp_path / f"{number}.npy", image)
        labels = [["wet"], ["wet", "green"], []][number % 3]
        lines.append(json.dumps({"path": f"{number}.npy", "labels": labels}))
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    images = open_dataset(f"list:{tmp_path / 'list.jsonl'}").all()
    assert images.channels == 5
    assert images.image(3).shape == (9, 8, 5)
    source = f"list:{tmp_path / 'list.jsonl'}"
    assert run(["data", "check", source, "--workers", "1"]) == 0


def test_bands_and_a_network_of_other_channels_are_refused(tmp_path: Path) -> None:
    root = plant(tmp_path / "data", 5)
    model = mm.create_model("mixer_pico2", num_classes=2, image_size=16)
    weights = mm.save(tmp_path / "rgb.safetensors", model, labels=["high", "low"])
    with pytest.raises(mm.UserError, match="the images have 5 channels"):
        mm.evaluate(weights, str(root))
    with pytest.raises(mm.UserError, match="in_channels=5"):
        mm.finetune(weights, str(root), tmp_path / "run")
    with pytest.raises(mm.UserError, match="has 5 bands: expected gray or RGB"):
        mm.Predictor(weights)(root / "low" / "0.tif")


def test_the_server_reads_bands_where_it_reads_tiffs() -> None:
    dice = np.random.default_rng(0)
    image = dice.integers(0, 255, (20, 18, 5), dtype=np.uint8)
    preprocess = Preprocess((16, 16), channels=5)
    budget = Budget(10**6, 10**9, 0.0, 0.0)
    data = tiff([(image, {})])
    told, pixels = answer(Job(preprocess, Bounds(("TIFF", "JPEG")), budget), data)
    expected = preprocess.fit(image)
    assert told["shape"] == expected.shape
    assert pixels == expected.tobytes()
    told, _ = answer(Job(preprocess, Bounds(("JPEG",)), budget), data)
    assert "only TIFFs hold" in told["error"]
