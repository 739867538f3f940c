import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from mlp_mixer.data import open_dataset
from mlp_mixer.errors import UserError


def idx(array: np.ndarray) -> bytes:
    kind = bytes([0, 0, 8, array.ndim])
    lengths = struct.pack(f">{array.ndim}I", *array.shape)
    return kind + lengths + array.tobytes()


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (12, 5, 6), dtype=np.uint8)
    labels = np.arange(12, dtype=np.uint8) % 10
    return {
        "train-images-idx3-ubyte": images,
        "train-labels-idx1-ubyte": labels,
        "t10k-images-idx3-ubyte": images[:3],
        "t10k-labels-idx1-ubyte": labels[:3],
    }


def write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        if name.startswith("train"):
            (folder / name).write_bytes(idx(array))
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))


@pytest.mark.parametrize("inside", ["", "raw", "FashionMNIST/raw"])
def test_plain_and_gzipped_files_in_every_place(tmp_path, arrays, inside):
    write(tmp_path / inside, arrays)
    dataset = open_dataset(f"fashion_mnist:{tmp_path}")
    assert (len(dataset.train), len(dataset.test)) == (12, 3)
    assert dataset.train.size == (5, 6)
    assert dataset.train.classes[9] == "Ankle boot"
    images = arrays["train-images-idx3-ubyte"]
    np.testing.assert_array_equal(dataset.train.images[..., 0], images)
    labels = arrays["t10k-labels-idx1-ubyte"]
    np.testing.assert_array_equal(dataset.test.labels, labels)


def test_mnist_from_the_cache_needs_no_network(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path))
    write(tmp_path / "data/MNIST/raw", arrays)
    assert open_dataset("mnist").train.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda data: data[:-1], "has 359 bytes after its header: expected 360"),
        (lambda data: data + b"0", "has 361 bytes"),
        (lambda data: b"", "is not an idx file"),
        (lambda data: b"\0\0\x0d" + data[3:], "is not an idx file of 3-dimensional"),
        (lambda data: data[:10], "is not an idx file"),
        (lambda data: gzip.compress(data, mtime=0)[:-9], "cannot read"),
        (lambda data: b"\x1f\x8bnonsense", "cannot read"),
        (lambda data: idx(np.zeros((11, 5, 6), np.uint8)), "11 images but 12 labels"),
    ],
)
def test_broken_files(tmp_path, arrays, break_it, message):
    write(tmp_path, arrays)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(break_it(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        open_dataset(f"mnist:{tmp_path}")


def test_a_missing_file(tmp_path, arrays):
    write(tmp_path, arrays)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    message = r"no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz"
    with pytest.raises(UserError, match=message):
        open_dataset(f"mnist:{tmp_path}")


def test_the_real_fashion_mnist(shared):
    folder = shared / "data" / "fashion_mnist"
    if not folder.is_dir():
        pytest.skip(f"no Fashion-MNIST at {folder}")
    dataset = open_dataset(f"fashion_mnist:{folder}")
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    assert np.bincount(dataset.train.labels).tolist() == [6000] * 10
    assert dataset.test.labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert dataset.train.images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
