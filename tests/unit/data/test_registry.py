import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlp_mixer as mm
from mlp_mixer import cli
from mlp_mixer.data import DATASETS, open_dataset
from mlp_mixer.data.registry import check_place
from mlp_mixer.errors import UserError
from mlp_mixer.report import build_report

RUN = Path(__file__).parents[2] / "data" / "run_0_1_0"


def test_digits():
    dataset = open_dataset("digits", split_seed=1)
    assert (len(dataset.train), len(dataset.test)) == (1442, 355)
    assert (dataset.train.size, dataset.train.channels) == ((8, 8), 1)
    images = dataset.all().images
    assert (images.min(), images.max(), images.dtype) == (0, 255, np.uint8)
    assert np.bincount(dataset.test.labels).min() >= 20
    with pytest.raises(UserError, match="takes no path"):
        open_dataset("digits:here")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fashion", "unknown dataset 'fashion'; did you mean"),
        ("zzz:there", "unknown dataset 'zzz'; known are"),
        ("folder:", "no path after the colon"),
        ("folder", "folder needs a folder .*: write folder:PATH"),
        ("imagenet", "imagenet needs your own copy"),
        ("./not/there", "no dataset at './not/there'"),
        ("", "unknown dataset"),
    ],
)
def test_specs_that_mean_nothing(spec, message):
    with pytest.raises(UserError, match=message):
        open_dataset(spec)


def test_every_local_dataset_says_what_is_missing(tmp_path):
    for name in DATASETS.keys() - {"digits"}:
        with pytest.raises(UserError):
            open_dataset(f"{name}:{tmp_path / 'absent'}")


def test_bare_paths(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        (tmp_path / "pets here" / name).mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "pets here" / name / "1.png")
    pixels = np.zeros((4, 2, 2), np.uint8)
    np.savez(tmp_path / "some.npz", x_train=pixels, y_train=[0, 1, 0, 1])
    monkeypatch.chdir(tmp_path)
    assert open_dataset("pets here").train.classes == ("cat", "dog")
    assert open_dataset(str(tmp_path / "some.npz")).train.channels == 1


def test_a_colon_in_the_path(tmp_path):
    folder = tmp_path / "a:b"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(folder / name / "1.png")
    assert len(open_dataset(f"folder:{folder}").train) == 2


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    images = np.arange(4 * 3 * 3 * 2, dtype=np.uint8).reshape(4, 3, 3, 2)
    return {
        "x_train": images,
        "y_train": np.array([0, 1, 0, 1]),
        "x_test": images[:2],
        "y_test": np.array([1, 0]),
    }


def test_npz(tmp_path, arrays):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, classes=np.array(["low", "high"]), **arrays)
    dataset = open_dataset(f"npz:{path}")
    assert dataset.train.classes == ("low", "high")
    assert dataset.train.channels == 2
    assert dataset.held_out is None
    np.testing.assert_array_equal(dataset.test.image(1), arrays["x_test"][1])
    assert dataset.test.name(1) == "test/1"
    np.savez(path, x_train=arrays["x_train"], y_train=arrays["y_train"])
    assert open_dataset(f"npz:{path}").held_out == (0.2, 0, "image")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": None, "x_test": None}, "expected x_train and y_train"),
        ({"x_train": None}, "d.npz' has test but no train: expected x_train"),
        ({"y_train": None}, "it has x_train but no y_train"),
        ({"y_test": None}, "it has x_test but no y_test"),
        ({"y_test": np.array([0, 2])}, "labels go from 0 to 2"),
        ({"x_train": np.zeros((4, 3, 3))}, "images are float64"),
        (
            {"y_train": np.array([0, 1, None])},
            "cannot read .* as an .npz file: .*objects",
        ),
    ],
)
def test_npz_that_does_not_fit(tmp_path, arrays, change, message):
    path = tmp_path / "d.npz"
    changed = arrays | change
    kept = {name: array for name, array in changed.items() if array is not None}
    np.savez(path, **kept)
    with pytest.raises(UserError, match=message):
        open_dataset(f"npz:{path}")


def test_npz_that_is_none(tmp_path, arrays):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, **arrays)
    complete = path.read_bytes()
    half = complete[: len(complete) // 2]
    damaged = complete[:60] + b"????" + complete[64:]
    for data in (b"", b"hello", half, damaged):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"d\.npz"):
            open_dataset(f"npz:{path}")
    with path.open("wb") as file:
        np.save(file, arrays["x_train"])
    with pytest.raises(UserError, match=r"is not an \.npz file"):
        open_dataset(f"npz:{path}")


@pytest.mark.parametrize("name", ["digits", "flowers", "pets", "mnist", "cifar10"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_a_folder_that_is_called_like_a_dataset(tmp_path, monkeypatch, name, split):
    """It was downloaded, or trained on, in the place of the pictures."""
    monkeypatch.chdir(tmp_path)
    for label in ("cat", "dog"):
        (tmp_path / name / split / label).mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name / split / label / "1.png")
    with pytest.raises(UserError, match=f"write folder:{name} for the folder"):
        open_dataset(name)
    assert open_dataset(f"folder:{name}").train.classes == ("cat", "dog")
    assert open_dataset(f"./{name}").train.classes == ("cat", "dog")


def test_a_run_that_is_called_like_a_dataset_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits/state").mkdir(parents=True)
    (tmp_path / "digits/config.json").touch()
    assert len(open_dataset("digits").train.classes) == 10


@pytest.mark.parametrize("place", ["y" * 5000, "~nobody-of-this-name/x"])
@pytest.mark.parametrize("name", ["", *sorted(DATASETS.keys() - {"digits"}), "shards"])
def test_places_that_no_file_can_have(name, place):
    with pytest.raises(UserError):
        open_dataset(f"{name}:{place}.csv" if name else place)


@pytest.mark.parametrize(
    ("spec", "here"),
    [
        ("folder:photos", "folder:../photos"),
        ("photos", "../photos"),
        ("list:sub/l.csv", "list:../sub/l.csv"),
        ("npz:runs/x.npz", "npz:../runs/x.npz"),
    ],
)
def test_data_beside_a_run_are_named_from_another_folder(
    tmp_path, monkeypatch, spec, here
):
    for folder in ("photos", "sub", "runs/one", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("sub/l.csv", "runs/x.npz", "runs/one/best.safetensors"):
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for run in ("../runs/one", tmp_path / "runs/one/best.safetensors"):
        with pytest.raises(UserError, match=f"did you mean --data {here}, which lies"):
            check_place(spec, run)
    # Here they are found, and there is nothing beside what is no folder.
    monkeypatch.chdir(tmp_path)
    check_place(spec, "runs/one")
    monkeypatch.chdir("elsewhere")
    check_place(spec, "mixer_nano4.cifar10")


@pytest.mark.parametrize(
    "spec", ["digits", "folder:/photos", "hf:https://x/photos", "folder:absent", ""]
)
def test_other_data_are_left_to_their_readers(tmp_path, monkeypatch, spec):
    (tmp_path / "digits").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    check_place(spec, tmp_path)


def test_whoever_takes_a_run_and_data_says_where_the_data_are(tmp_path, monkeypatch):
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    settings = json.loads((run / "config.json").read_text())
    settings["config"]["data"]["source"] = "folder:photos"
    (run / "config.json").write_text(json.dumps(settings))
    (tmp_path / "photos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    calls = [
        lambda: mm.evaluate("../run", "photos"),
        lambda: mm.train("../run/config.json", "../run", resume=True),
        lambda: mm.finetune("../run", "photos", "new"),
        lambda: build_report("../run"),
    ]
    for call in calls:
        with pytest.raises(
            UserError, match=r"did you mean --data .*\.\./photos, which"
        ):
            call()
    for verb in ("evaluate", "fewshot"):
        assert cli.run([verb, "../run", "--data", "photos"]) == 2
