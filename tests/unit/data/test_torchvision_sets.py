import builtins
import sys

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from mlp_mixer.data import open_dataset
from mlp_mixer.errors import UserError


class Planes:
    """What torchvision's SVHN and STL10 look like."""

    def __init__(self, root: str, split: str, download: bool) -> None:
        n = 20 if split == "train" else 10
        values = np.arange(n * 3 * 4 * 4).astype(np.uint8)
        self.data = values.reshape(n, 3, 4, 4)
        self.labels = np.arange(n) % 10


@pytest.mark.parametrize(("spec", "name"), [("svhn", "SVHN"), ("stl10", "STL10")])
def test_sets_in_memory(tmp_path, monkeypatch, spec, name):
    monkeypatch.setattr(torchvision.datasets, name, Planes)
    dataset = open_dataset(f"{spec}:{tmp_path}")
    assert (len(dataset.train), len(dataset.test)) == (20, 10)
    assert dataset.train.size == (4, 4)
    assert len(dataset.train.classes) == 10
    assert dataset.train.image(1)[0, 0].tolist() == [48, 64, 80]


def test_oxford_pets_as_torchvision_reads_it(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations").mkdir()
    for name in ("Abyssinian_1", "beagle_1", "beagle_2"):
        Image.new("RGB", (5, 4)).save(base / f"images/{name}.jpg")
    train = "Abyssinian_1 1 1 1\nbeagle_1 2 2 1\n"
    test = "Abyssinian_1 1 1 1\nbeagle_2 2 2 1\n"
    (base / "annotations/trainval.txt").write_text(train)
    (base / "annotations/test.txt").write_text(test)
    dataset = open_dataset(f"pets:{tmp_path}")
    assert dataset.train.classes == ("Abyssinian", "Beagle")
    assert dataset.test.name(1) == "oxford-iiit-pet/images/beagle_2.jpg"
    assert dataset.test.labels.tolist() == [0, 1]
    assert dataset.test.image(1).shape == (4, 5, 3)


def test_flowers_as_torchvision_reads_them(tmp_path, monkeypatch):
    from scipy.io import savemat

    base = tmp_path / "flowers-102"
    (base / "jpg").mkdir(parents=True)
    savemat(base / "imagelabels.mat", {"labels": np.array([1, 102, 1, 102, 1, 102])})
    savemat(base / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})
    module = torchvision.datasets.flowers102
    monkeypatch.setattr(module, "check_integrity", lambda *_: True)
    dataset = open_dataset(f"flowers:{tmp_path}")
    assert dataset.val.labels.tolist() == [0, 101]
    assert dataset.test.name(0) == "flowers-102/jpg/image_00005.jpg"
    assert dataset.train.classes[101] == "102"


def test_what_is_not_there_ends_in_a_sentence(tmp_path):
    for spec, name in (
        ("svhn", "SVHN"),
        ("pets", "OxfordIIITPet"),
        ("flowers", "Flowers102"),
        ("stl10", "STL10"),
    ):
        message = f"cannot open {name} in .*; or give .*:PATH"
        with pytest.raises(UserError, match=message):
            open_dataset(f"{spec}:{tmp_path}")


@pytest.mark.parametrize(
    ("spec", "name"), [("cifar10", "CIFAR10"), ("mnist", "MNIST"), ("svhn", "SVHN")]
)
def test_a_failed_download_ends_in_a_sentence(tmp_path, monkeypatch, spec, name):
    def refuse(**arguments):
        assert arguments["download"]
        raise OSError("no\n network")

    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, name, refuse)
    message = f"cannot download {name} in .*data': no network; or give {spec}:PATH"
    with pytest.raises(UserError, match=message):
        open_dataset(spec)


def test_a_broken_torchvision_harms_only_those_who_need_it(tmp_path, monkeypatch):
    original = builtins.__import__

    def broken(name, *arguments):
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return original(name, *arguments)

    for module in [name for name in sys.modules if name.startswith("torchvision")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", broken)
    assert len(open_dataset("digits").all()) == 1797
    message = (
        "torchvision cannot be imported .*nms.*install the one made for your torch"
    )
    with pytest.raises(UserError, match=message):
        open_dataset(f"svhn:{tmp_path}")
