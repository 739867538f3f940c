"""`mlp-mixer data check`: what it prints and writes, and how --fix is undone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlp_mixer
from mlp_mixer.cli import run


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


NAMES = [
    "a b.jpg",
    "naïve 猫.jpg",
    "new\nline.jpg",
    os.fsdecode(b"\xff\xfe.jpg"),
    "\x1b[31mred.jpg",
    "manifest.json.jpg",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sound pictures, and bad ones under names that a careless writer would garble."""
    root = tmp_path / "my <b>photos</b>"
    for label, tint in (("sea", 90), ("meadow & hill", 0)):
        (root / "train" / label).mkdir(parents=True)
        for number in range(10):
            rng = np.random.default_rng([tint, number])
            field = rng.integers(tint, 160 + tint, (6, 6, 3), dtype=np.uint8)
            image = Image.fromarray(field).resize((60, 50), Image.Resampling.BICUBIC)
            image.save(root / "train" / label / f"{number}.jpg")
    for number, name in enumerate(NAMES):
        (root / "train/sea" / name).write_bytes(b"bad %d" % number)
    shutil.copy(root / "train/sea/0.jpg", root / "train/sea/0 (copy).jpg")
    (root / "train/sea/link.jpg").symlink_to("nowhere")
    (root / "train/empty").mkdir()
    (root / "train/broken").mkdir()
    for name in NAMES:
        (root / "train/broken" / name).write_bytes(b"bad")
    (root / "train/sea/a b.jpg").chmod(0o640)
    os.utime(root / "train/sea/a b.jpg", ns=(10**18, 10**18 + 1))
    return root


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder: links, contents, rights, times of files."""
    kept: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        about = path.lstat()
        if path.is_symlink():
            kept[name] = ("link", str(path.readlink()), about.st_ino)
        elif path.is_dir():
            kept[name] = ("folder", about.st_mode)
        else:
            times = (about.st_mode, about.st_mtime_ns, about.st_ino)
            kept[name] = (path.read_bytes(), *times)
    return kept


def files_of(kept: dict[str, tuple[object, ...]]) -> list[str]:
    """Return the names in a snapshot without folders."""
    return [name for name, about in kept.items() if about[0] != "folder"]


def check(folder: Path, *options: str) -> int:
    return call("data", "check", folder, "--workers", "1", *options)


def test_findings_in_lines_in_json_and_on_a_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(folder) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "21 pictures in 2 classes: 15 errors, 1 warnings, 0 notes"
    assert len(lines) == 17
    start = "error   no-image            train/sea/new\\nline.jpg: "
    assert f"{start}is not an image in a known format" in "\n".join(lines)
    assert not any("\x1b" in line for line in lines)
    assert check(folder, "--json", "--out", str(tmp_path / "out")) == 1
    result = json.loads(capsys.readouterr().out)
    refused = [f["path"] for f in result["findings"] if f["kind"] == "no-image"]
    in_sea = [f"train/sea/{name}" for name in NAMES]
    in_broken = [f"train/broken/{name}" for name in NAMES]
    assert sorted(refused) == sorted([*in_sea, *in_broken])
    assert result["files"] == 34
    assert result["readable"] == 21
    assert result["errors"] == 15
    assert result["moved"] == 0
    assert result["classes"] == {"meadow & hill": {"train": 10}, "sea": {"train": 11}}
    written = json.loads((tmp_path / "out/check.json").read_text())
    assert written | {"moved": 0} == result
    page = (tmp_path / "out/check.html").read_text()
    assert "<b>" not in page
    assert "meadow &amp; hill" in page
    # Contact sheets, and a copy beside its original.
    assert page.count("data:image/jpeg;base64,") == 21 + 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_only_warnings_are_no_failure(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("empty", "broken"):
        shutil.rmtree(folder / "train" / name)
    for path in folder.rglob("*"):
        if path.name in (*NAMES, "link.jpg"):
            path.unlink()
    assert check(folder) == 0
    printed = capsys.readouterr().out
    start = "warning duplicate           train/sea/0 (copy).jpg: "
    assert f"{start}has the bytes of train/sea/0.jpg" in printed
    assert check(folder, "--fix") == 0
    (folder.with_name(folder.name + ".set-aside")).rename(folder.parent / "away")
    assert check(folder, "--fix", "--out", str(folder.parent / "page.html")) == 0
    # With nothing to move there is no new folder beside this one.
    names = {path.name for path in folder.parent.iterdir()}
    assert names == {folder.name, "page.html", "away"}
    assert "No faults were found." in (folder.parent / "page.html").read_text()


def test_fix_sets_aside_and_undo_puts_back(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(folder)
    assert check(folder, "--fix") == 0
    assert "moved 16 files to" in capsys.readouterr().out
    left = sorted(path.name for path in (folder / "train").iterdir())
    assert left == ["meadow & hill", "sea"]
    assert check(folder) == 0
    aside = folder.with_name(folder.name + ".set-aside")
    # No file is lost; one more is the manifest.
    files = files_of(snapshot(folder)) + files_of(snapshot(aside))
    assert len(files) == len(files_of(before)) + 1
    assert check(folder, "--undo") == 0
    assert "put back 16 files" in capsys.readouterr().out
    assert snapshot(folder) == before
    assert not aside.exists()
    assert check(folder, "--undo") == 2
    assert "nothing of" in capsys.readouterr().err


def test_what_came_in_between_is_not_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = folder / "train/sea/a b.jpg"
    assert check(folder, "--fix") == 0
    bad.write_bytes(b"bad once more")
    # A second file of this name finds a place beside the first.
    assert check(folder, "--fix") == 0
    bad.write_bytes(b"in the way")
    assert check(folder, "--undo") == 1
    error = capsys.readouterr().err
    assert "left aside: train/sea/a b.jpg (something else has its place)" in error
    assert bad.read_bytes() == b"in the way"
    bad.unlink()
    assert check(folder, "--undo") == 1
    assert bad.read_bytes() == b"bad once more"
    bad.unlink()
    assert check(folder, "--undo") == 0
    assert bad.read_bytes() == b"bad 0"
    assert not folder.with_name(folder.name + ".set-aside").exists()


# Runs the command and kills its own process before move number LEFT.
KILLED = """
import os, signal, sys
from mlp_mixer.check import quarantine
from mlp_mixer.cli import run

left = int(sys.argv[1])
move = quarantine._move

def dying(*paths):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    move(*paths)

quarantine._move = dying
run(["data", "check", sys.argv[2], "--workers", "1", *sys.argv[3:]])
"""


@pytest.mark.parametrize("moves", [0, 7])
def test_a_killed_fix_can_be_undone_or_go_on(folder: Path, moves: int) -> None:
    before = snapshot(folder)
    aside = folder.with_name(folder.name + ".set-aside")

    def killed(*options: str) -> None:
        command = [sys.executable, "-c", KILLED, str(moves), str(folder), *options]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL

    killed("--fix")
    # With the manifest and the lock of the killed process.
    assert len(files_of(snapshot(aside))) == moves + 2
    assert check(folder, "--undo") == 0
    assert snapshot(folder) == before
    killed("--fix")
    assert check(folder, "--fix") == 0
    assert check(folder) == 0
    killed("--undo")
    assert check(folder, "--undo") == 0
    assert snapshot(folder) == before
    assert list(aside.rglob("*")) == []


def test_mistakes_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = [tmp_path / "nowhere"]
    both = [tmp_path, "--fix", "--undo"]
    no_model = [tmp_path, "--model", tmp_path / "none.safetensors"]
    for arguments, words in (
        (nowhere, "there is no dataset at"),
        (both, "--fix and --undo contradict each other"),
        (no_model, "none.safetensors"),
    ):
        assert call("data", "check", *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert words in error
        assert error.count("\n") == 1


def test_a_checkpoint_decides_which_labels_are_odd(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its features reach the search, one for each picture that can be read."""
    from mlp_mixer.check import labels as labels_module

    seen = []

    def search(features: np.ndarray, labels: np.ndarray) -> list[tuple[int, int]]:
        seen.append((features.shape, sorted(labels.tolist())))
        return []

    monkeypatch.setattr(labels_module, "odd_labels", search)
    model = mlp_mixer.create_model(
        "mixer_nano4", num_classes=2, num_blocks=1, hidden_dim=8, image_size=16
    )
    path = mlp_mixer.save(tmp_path / "model.safetensors", model)
    assert check(folder, "--model", str(path)) == 1
    assert seen == [((20, 8), [0] * 10 + [1] * 10)]
