"""A check takes whatever training takes: lists, arrays, tars, names."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.check import Check, check_dataset
from mlp_mixer.check.page import write_check_page
from mlp_mixer.errors import UserError


def noise(seed: int, side: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (side, side, 3), np.uint8)


def found(check: Check, severity: str = "error") -> set[tuple[str, str]]:
    findings = check.findings
    return {(one.kind, one.path) for one in findings if one.severity == severity}


def write_list(folder: Path, count: int = 6) -> Path:
    lines = ["path,label,split"]
    for number in range(count):
        Image.fromarray(noise(number)).save(folder / f"{number}.png")
        split = "test" if number >= count - 2 else "train"
        lines.append(f"{number}.png,{'ab'[number % 2]},{split}")
    path = folder / "list.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("prefix", ["", "list:"])
def test_a_list_without_faults(tmp_path: Path, prefix: str) -> None:
    check = check_dataset(f"{prefix}{write_list(tmp_path)}", workers=1)
    assert found(check) == set()
    assert len(check.pictures) == check.files == 6
    classes = check.to_dict()["classes"]
    assert classes == {"a": {"train": 2, "test": 1}, "b": {"train": 2, "test": 1}}


def test_faults_of_a_list(tmp_path: Path) -> None:
    path = write_list(tmp_path)
    (tmp_path / "0.png").write_bytes(b"no picture")
    (tmp_path / "5.png").write_bytes((tmp_path / "1.png").read_bytes())
    (tmp_path / "2.png").rename(tmp_path / "without ending")
    path.write_text(path.read_text().replace("2.png", "without ending"))
    check = check_dataset(str(path), workers=1)
    assert found(check) == {("no-image", "0.png"), ("leak", "1.png")}


def test_what_the_reader_refuses_is_refused(tmp_path: Path) -> None:
    path = write_list(tmp_path)
    path.write_text(path.read_text() + "\n./0.png,b,train")
    with pytest.raises(UserError, match="is called 'b', and by line 2 'a'"):
        check_dataset(str(path))
    with pytest.raises(UserError, match="unknown dataset"):
        check_dataset("digitz")


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_arrays(tmp_path: Path, channels: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 20, 20, channels), np.uint8)
    images[7] = images[0]
    labels = [0, 1] * 4
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images, y_train=labels)
    check = check_dataset(str(path))
    conflicts = {("label-conflict", "train/0"), ("label-conflict", "train/7")}
    assert found(check) == conflicts
    page = write_check_page(check, tmp_path / "page.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") >= 8


def test_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(6):
            file = io.BytesIO()
            Image.fromarray(noise(number)).save(file, "PNG")
            data = file.getvalue() if number else b"no picture"
            for ending, content in (("png", data), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    check = check_dataset(f"shards:{tmp_path}")
    assert found(check) == {("damaged", "a/0.png")}
    assert len(check.pictures) == 5


def test_a_name() -> None:
    check = check_dataset("digits")
    assert len(check.pictures) == 1797
    assert len(check.to_dict()["classes"]) == 10


def test_several_labels_are_no_classes_of_their_own(tmp_path: Path) -> None:
    lines = ["path,labels"]
    for number, labels in enumerate(["cat;pet", "pet", "", "cat"]):
        Image.fromarray(noise(number)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{labels}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    assert found(check_dataset(str(tmp_path / "list.csv"), workers=1)) == set()
