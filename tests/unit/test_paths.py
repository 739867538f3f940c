"""Names that no file can have end in one sentence, whoever is given them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mlp_mixer as mm
from mlp_mixer.check.dataset import check_dataset
from mlp_mixer.check.quarantine import put_back
from mlp_mixer.cli import run
from mlp_mixer.data.shard_writer import write_shards
from mlp_mixer.files import atomic_file, make_folder, refuse_to_replace, write_text

LONG = "y" * 300
# A null byte, half of a letter, too long a name, and a file where a folder is expected.
NAMES = ["a\0b", "a\0b/x", "d/a\0", "\ud800x", "d/\ud800", LONG, f"{LONG}/x", "file/x"]

TINY = {
    "model.name": "mixer_pico2",
    "model.image_size": 8,
    "model.num_blocks": 1,
    "data.source": "digits",
    "data.workers": 0,
    "train.epochs": 1,
    "train.threads": 1,
}

SMALL = {key: value for key, value in TINY.items() if key != "data.source"}

WRITERS: dict[str, Callable[[str, Any], object]] = {
    "save": lambda path, known: mm.save(path, known.model),
    "save_named": lambda path, known: mm.save(f"{path}.safetensors", known.model),
    "save_pretrained": lambda path, known: mm.save_pretrained(known, path),
    "train": lambda path, known: mm.train("digits", path, settings=TINY),
    "finetune": lambda path, known: mm.finetune("scratch", "digits", path),
    "pretrain": lambda path, known: mm.pretrain("digits", path),
    "write_text": lambda path, known: write_text(path, "text"),
    "make_folder": lambda path, known: make_folder(path),
    "write_shards": lambda path, known: write_shards(
        mm.open_dataset("digits"), Path(path), shard_bytes=10**6
    ),
}

READERS: dict[str, Callable[[str, Any], object]] = {
    "load": lambda path, known: mm.load(path),
    "from_pretrained": lambda path, known: mm.from_pretrained(path),
    "labels": lambda path, known: mm.load(known.path, labels=path),
    "decode_image": lambda path, known: mm.decode_image(path),
    "decode_bands": lambda path, known: mm.decode_image(path, channels=5),
    "decode_array": lambda path, known: mm.decode_image(f"{path}.npy", channels=5),
    "open_dataset": lambda path, known: mm.open_dataset(path),
    "open_folder": lambda path, known: mm.open_dataset(f"folder:{path}"),
    "open_list": lambda path, known: mm.open_dataset(f"list:{path}.csv"),
    "open_shards": lambda path, known: mm.open_dataset(f"shards:{path}"),
    "open_cifar": lambda path, known: mm.open_dataset(f"cifar10:{path}"),
    "check": lambda path, known: check_dataset(path, workers=1),
    "undo": lambda path, known: put_back(Path(path)),
}


class Known:
    """A checkpoint that there is."""

    def __init__(self, folder: Path) -> None:
        self.model = mm.create_model("mixer_pico2", num_blocks=1, num_classes=3)
        self.path = mm.save(folder / "known.safetensors", self.model)
        known = mm.load(self.path)
        self.preprocess, self.labels = known.preprocess, known.labels
        self.provenance = known.provenance


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Known]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("file").write_text("no folder")
    found = Known(tmp_path)
    before = sorted(tmp_path.iterdir())
    yield found
    # Nothing is left behind, not even half of it.
    assert [path for path in sorted(tmp_path.iterdir()) if path not in before] in (
        [],
        [tmp_path / "d"],
    )


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:12])
@pytest.mark.parametrize("call", [*WRITERS, *READERS])
def test_a_name_that_no_file_can_have_is_refused_in_a_sentence(
    call: str, name: str, known: Known
) -> None:
    with pytest.raises(mm.UserError) as caught:
        {**WRITERS, **READERS}[call](name, known)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES[:-1], ids=lambda name: repr(name)[:12])
def test_files_are_neither_written_nor_looked_for(name: str, tmp_path: Path) -> None:
    with (
        pytest.raises(mm.UserError, match="no file can be called"),
        atomic_file(tmp_path / name) as file,
    ):
        file.write(b"never")
    with pytest.raises(mm.UserError, match="no file can be called"):
        refuse_to_replace(tmp_path / name)


@pytest.mark.parametrize(
    "command",
    [
        "train digits --out {}",
        "predict {0} {0}",
        "evaluate {0} --data {0}",
        "finetune --data digits --out {}",
        "report {}",
        "data check {}",
        "data check {} --undo",
        "data sample digits --out {}",
        "data shard digits {}",
        "convert {0} {0} --to timm",
        "export {0} {0} --to onnx",
        "explain {0} {0} --out {0}",
    ],
)
@pytest.mark.parametrize(
    "name", [LONG, "file/x", "\ud800x"], ids=["long", "file", "half"]
)
def test_commands_say_so_too(
    command: str, name: str, known: Known, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(command.format(name).split()) == 2
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert "error: " in told


def plant(root: Path, labels: tuple[str, str]) -> Path:
    dice = np.random.default_rng(len(root.parts))
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(4):
            pixels = dice.integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return root


def test_a_run_is_repeated_on_its_own_images_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A relative --data means another folder, or none, in another working directory."""
    here, there = tmp_path / "here", tmp_path / "there"
    plant(here / "photos", ("cat", "dog"))
    monkeypatch.chdir(here)
    mm.train("digits", "runs/a", data="photos", settings=SMALL)
    # In the same folder, by any name of it.
    mm.train("runs/a/config.json", "runs/b")
    mm.train(here / "runs" / "a" / "config.json", "runs/c")
    there.mkdir()
    monkeypatch.chdir(there)
    config = "../here/runs/a/config.json"
    with pytest.raises(mm.UserError, match="did you mean --data ../here/photos"):
        mm.train(config, "new")
    plant(there / "photos", ("bus", "tram"))
    with pytest.raises(mm.UserError, match="another one beside") as caught:
        mm.train(config, "new")
    assert "give --data ../here/photos for that one" in str(caught.value)
    assert run(["train", config, "--out", "new"]) == 2
    assert "another one beside" in capfd.readouterr().err
    assert not Path("new").exists()
    mm.train(config, "theirs", data="../here/photos")
    assert mm.load("theirs").labels == ("cat", "dog")
    mm.train(config, "own", settings={"data.source": "photos"})
    assert mm.load("own").labels == ("bus", "tram")
