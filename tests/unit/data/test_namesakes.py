"""A folder of somebody's own that is called as a dataset is: never the wrong one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mlp_mixer import UserError, open_dataset
from mlp_mixer.cli import run

NAMES = ["digits", "flowers", "pets", "mnist", "cifar10", "svhn"]


def plant(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (9, 9), (number * 80, 0, 0)).save(folder / f"{number}.png")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["", "train/"])
def test_a_namesake_is_asked_about(
    name: str, split: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for label in ("cat", "dog"):
        plant(Path(f"{name}/{split}{label}"))
    with pytest.raises(UserError, match=f"write folder:{name} for the folder"):
        open_dataset(name)
    assert run(["data", "check", name]) == 2
    assert f"folder:{name}" in capfd.readouterr().err
    # Each of these says which is meant.
    for clear in (f"folder:{name}", f"./{name}", str(Path(name).resolve())):
        assert open_dataset(clear).train.classes == ("cat", "dog")


@pytest.mark.parametrize("inside", ["notes", "data.npz", ""])
def test_a_folder_without_pictures_is_no_namesake(inside: str) -> None:
    """Such as that of a download, or of a script."""
    Path("digits").mkdir()
    if inside:
        Path("digits", inside).write_bytes(b"")
    assert len(open_dataset("digits").train.classes) == 10
