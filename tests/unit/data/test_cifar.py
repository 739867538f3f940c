from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.data import open_dataset
from mlp_mixer.data.cifar import CIFAR10, CIFAR100
from mlp_mixer.errors import UserError

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
LABELS = np.arange(10)[::-1]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 10, 32, 32, 3), dtype=np.uint8)


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_binary(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    labels = LABELS[:, None].astype(np.uint8)
    for name, part in zip(BATCHES, images, strict=True):
        records = np.concatenate([labels, planes(part)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_python(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(BATCHES, images, strict=True):
        batch = {
            b"data": np.ascontiguousarray(planes(part)),
            b"labels": LABELS.tolist(),
            b"batch_label": b"x",
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize(
    ("write", "folder"),
    [
        (write_binary, ""),
        (write_binary, "cifar-10-batches-bin"),
        (write_python, ""),
        (write_python, "cifar-10-batches-py"),
    ],
)
def test_official_layouts(tmp_path, images, write, folder):
    write(tmp_path / folder, images)
    dataset = open_dataset(f"cifar10:{tmp_path}")
    expected = images[:5].reshape(50, 32, 32, 3)
    np.testing.assert_array_equal(dataset.train.images, expected)
    np.testing.assert_array_equal(dataset.test.images, images[5])
    np.testing.assert_array_equal(dataset.test.labels, LABELS)
    assert dataset.train.classes[3] == "cat"


def test_cifar100_takes_the_fine_labels(tmp_path, images):
    binary = tmp_path / "bin"
    python = tmp_path / "py"
    binary.mkdir()
    python.mkdir()
    coarse = np.full((10, 1), 7, np.uint8)
    fine = (LABELS[:, None] + 90).astype(np.uint8)
    for name, part in (("train", images[0]), ("test", images[1])):
        records = np.concatenate([coarse, fine, planes(part)], axis=1)
        (binary / f"{name}.bin").write_bytes(records.tobytes())
        batch = {
            b"data": planes(part),
            b"fine_labels": fine.ravel().tolist(),
            b"coarse_labels": [7] * 10,
        }
        (python / name).write_bytes(pickle.dumps(batch, protocol=4))
    one = open_dataset(f"cifar100:{binary}")
    other = open_dataset(f"cifar100:{python}")
    assert one.train.labels.tolist() == (LABELS + 90).tolist()
    assert other.train.labels.tolist() == (LABELS + 90).tolist()
    assert one.fingerprint() == other.fingerprint()
    np.testing.assert_array_equal(one.test.images, other.test.images)


def test_class_names_are_the_official_ones():
    assert len(CIFAR100.classes) == len(set(CIFAR100.classes)) == 100
    assert CIFAR100.classes == tuple(sorted(CIFAR100.classes))
    assert CIFAR100.classes[0] == "apple"
    assert CIFAR100.classes[51] == "mushroom"
    assert CIFAR100.classes[99] == "worm"
    assert len(CIFAR10.classes) == 10
    assert CIFAR10.classes == tuple(sorted(CIFAR10.classes))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "it holds a list instead of a dict"),
        ({b"data": np.zeros((1, 3072), np.uint8)}, "it has no 'labels'"),
        ({b"data": "text", b"labels": [0]}, "its 'data' is neither a list nor"),
        (
            {b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]},
            r"pixels of uint8 \(1, 3071\): expected uint8 \(1, 3072\)",
        ),
        (
            {b"data": np.zeros((1, 3072), np.int64), b"labels": [0]},
            r"pixels of int64 \(1, 3072\): expected uint8 \(1, 3072\)",
        ),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, "has the label 10"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]}, "has the label -1"),
    ],
)
def test_pickles_that_hold_something_else(tmp_path, images, batch, message):
    write_python(tmp_path, images)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=4))
    with pytest.raises(UserError, match=f"test_batch'.*{message}"):
        open_dataset(f"cifar10:{tmp_path}")


def test_broken_and_missing_files(tmp_path, images):
    write_binary(tmp_path, images)
    path = tmp_path / "data_batch_4.bin"
    complete = path.read_bytes()
    for data, message in (
        (complete[:-1], "expected a multiple of 3073"),
        (b"\x0a" + complete[1:], "has the label 10"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"data_batch_4\.bin' .*{message}"):
            open_dataset(f"cifar10:{tmp_path}")
    path.unlink()
    with pytest.raises(UserError, match=r"data_batch_4\.bin': No such file"):
        open_dataset(f"cifar10:{tmp_path}")
    with pytest.raises(UserError, match="there is no cifar100 in"):
        open_dataset(f"cifar100:{tmp_path}")


def test_a_folder_of_classes(tmp_path, images):
    for split in ("train", "test"):
        for name in CIFAR10.classes:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.fromarray(images[0, 0]).save(folder / "0000.png")
    dataset = open_dataset(f"cifar10:{tmp_path}")
    assert dataset.train.classes == CIFAR10.classes
    np.testing.assert_array_equal(dataset.test.image(9), images[0, 0])
    assert dataset.test.labels[9] == 9
    (tmp_path / "train/cat").rename(tmp_path / "train/tiger")
    (tmp_path / "test/cat").rename(tmp_path / "test/tiger")
    with pytest.raises(UserError, match="other names than cifar10: use folder:PATH"):
        open_dataset(f"cifar10:{tmp_path}")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """CIFAR-10 in the binary layout, unpacked by the optional folder's own script."""
    script = shared / "data" / "cifar10" / "unpack_cifar10.py"
    if not script.is_file():
        pytest.skip(f"no CIFAR-10 at {script}")
    out = tmp_path_factory.mktemp("cifar10")
    command = [sys.executable, str(script), str(out), "--as", "bin"]
    subprocess.run(command, check=True, capture_output=True)
    return out


def test_the_real_images(unpacked):
    dataset = open_dataset(f"cifar10:{unpacked}")
    assert (len(dataset.train), len(dataset.test)) == (50_000, 10_000)
    # The official order.
    assert dataset.test.labels[:6].tolist() == [3, 8, 8, 0, 6, 6]
    # The channel means that everybody normalises CIFAR-10 with.
    means = dataset.train.images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=1e-4)
