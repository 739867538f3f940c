"""`mlp-mixer data check`: what it prints and writes, and what --fix moves comes back,
whatever happens in between.
"""

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
from mlp_mixer.check import quarantine as set_aside
from mlp_mixer.cli import run
from mlp_mixer.errors import UserError

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
    """Two classes of sound pictures, and bad ones under names that a careless writer
    would garble.
    """
    root = tmp_path / "my <b>photos</b>"
    for label, tint in (("sea", 90), ("meadow & hill", 0)):
        (root / "train" / label).mkdir(parents=True)
        for number in range(6):
            field = np.random.default_rng([tint, number]).integers(
                tint, 160 + tint, (6, 6, 3), dtype=np.uint8
            )
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
        about = path.lstat()
        if path.is_symlink():
            kept[str(path.relative_to(root))] = (
                "link",
                str(path.readlink()),
                about.st_ino,
            )
        elif path.is_dir():
            kept[str(path.relative_to(root))] = ("folder", about.st_mode)
        else:
            kept[str(path.relative_to(root))] = (
                path.read_bytes(),
                about.st_mode,
                about.st_mtime_ns,
                about.st_ino,
            )
    return kept


def check(folder: Path, *options: str) -> int:
    return run(["data", "check", str(folder), "--workers", "1", *options])


def test_findings_in_lines_in_json_and_on_a_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(folder) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "13 pictures in 2 classes: 15 errors, 1 warnings, 0 notes"
    assert len(lines) == 17
    assert (
        "error   no-image            train/sea/new\\nline.jpg: is not an image in a known format"
        in "\n".join(lines)
    )
    assert not any("\x1b" in line for line in lines)
    assert check(folder, "--json", "--out", str(tmp_path / "out")) == 1
    result = json.loads(capsys.readouterr().out)
    assert {f["path"] for f in result["findings"] if f["kind"] == "no-image"} == {
        f"train/{label}/{name}" for label in ("sea", "broken") for name in NAMES
    }
    assert (result["files"], result["readable"], result["errors"], result["moved"]) == (
        26,
        13,
        15,
        0,
    )
    assert result["classes"] == {"meadow & hill": {"train": 6}, "sea": {"train": 7}}
    assert (
        json.loads((tmp_path / "out/check.json").read_text()) | {"moved": 0} == result
    )
    page = (tmp_path / "out/check.html").read_text()
    assert "<b>" not in page
    assert "meadow &amp; hill" in page
    assert (
        page.count("data:image/jpeg;base64,") == 13 + 2
    )  # contact sheets, and a copy beside its original
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
    assert (
        "warning duplicate           train/sea/0 (copy).jpg: has the bytes of train/sea/0.jpg"
        in capsys.readouterr().out
    )
    assert check(folder, "--fix") == 0
    (folder.with_name(folder.name + ".set-aside")).rename(folder.parent / "away")
    assert check(folder, "--fix", "--out", str(folder.parent / "page.html")) == 0
    assert {path.name for path in folder.parent.iterdir()} == {
        folder.name,
        "page.html",
        "away",
    }  # nothing to set aside
    assert "None were found." in (folder.parent / "page.html").read_text()


def test_fix_sets_aside_and_undo_puts_back(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(folder)
    assert check(folder, "--fix") == 0
    assert "moved 16 files to" in capsys.readouterr().out
    assert sorted(path.name for path in (folder / "train").iterdir()) == [
        "meadow & hill",
        "sea",
    ]
    assert check(folder) == 0
    aside = folder.with_name(folder.name + ".set-aside")
    kept = {name: about for name, about in before.items() if about[0] != "folder"}
    both = [
        about
        for root in (folder, aside)
        for about in snapshot(root).values()
        if about[0] != "folder"
    ]
    assert len(both) == len(kept) + 1  # nothing is lost; one more is the manifest
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
    assert (
        check(folder, "--fix") == 0
    )  # a second of this name finds a place beside the first
    bad.write_bytes(b"in the way")
    assert check(folder, "--undo") == 1
    assert (
        "left aside: train/sea/a b.jpg (something else has its place)"
        in capsys.readouterr().err
    )
    assert bad.read_bytes() == b"in the way"
    bad.unlink()
    assert check(folder, "--undo") == 1
    assert bad.read_bytes() == b"bad once more"
    bad.unlink()
    assert check(folder, "--undo") == 0
    assert bad.read_bytes() == b"bad 0"
    assert not folder.with_name(folder.name + ".set-aside").exists()


KILLED = """
import os, signal, sys
from mlp_mixer.cli import run
from mlp_mixer.data import set_aside
left, move = int(sys.argv[1]), set_aside._move
def dying(source, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    move(source, target)
set_aside._move = dying
run(["data", "check", sys.argv[2], "--workers", "1", *sys.argv[3:]])
"""


@pytest.mark.parametrize("moves", [0, 7])
def test_a_killed_fix_can_be_undone_or_go_on(folder: Path, moves: int) -> None:
    before = snapshot(folder)
    aside = folder.with_name(folder.name + ".set-aside")

    def killed(*options: str) -> None:
        command = [sys.executable, "-c", KILLED, str(moves), str(folder), *options]
        assert (
            subprocess.run(command, capture_output=True, check=False).returncode
            == -signal.SIGKILL
        )

    killed("--fix")
    moved = [name for name, about in snapshot(aside).items() if about[0] != "folder"]
    assert (
        len(moved) == moves + 2
    )  # with the manifest and the mark of the killed process
    assert check(folder, "--undo") == 0
    assert snapshot(folder) == before
    killed("--fix")
    assert check(folder, "--fix") == 0
    assert check(folder) == 0
    killed("--undo")
    assert check(folder, "--undo") == 0
    assert snapshot(folder) == before
    assert list(aside.rglob("*")) == []


def test_what_the_disk_refuses_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what had been moved by then comes back."""
    before = snapshot(folder)
    rename = Path.rename
    left = [3]

    def refused(source: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(18, "Invalid cross-device link")
        return rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refused)
        with pytest.raises(
            UserError,
            match="cannot move .*: Invalid cross-device link; --undo puts back",
        ):
            set_aside.set_aside(folder, [f"train/sea/{name}" for name in NAMES])
    assert set_aside.put_back(folder) == (3, [])
    assert snapshot(folder) == before


def test_mistakes_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        ([str(tmp_path / "nowhere")], "there is no folder"),
        ([str(tmp_path), "--fix", "--undo"], "--fix and --undo contradict each other"),
        (
            [str(tmp_path), "--model", str(tmp_path / "none.safetensors")],
            "none.safetensors",
        ),
    ):
        assert run(["data", "check", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert words in error
        assert error.count("\n") == 1


def test_a_checkpoint_judges_the_labels(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its features reach the search, one for each picture that can be read."""
    from mlp_mixer.check import folder as module

    seen = []
    monkeypatch.setattr(
        module,
        "odd_labels",
        lambda x, labels: seen.append((x.shape, labels.tolist())) or [],
    )
    model = mlp_mixer.create_model(
        "mixer_nano4", num_classes=2, num_blocks=1, hidden_dim=8, image_size=16
    )
    path = mlp_mixer.save(tmp_path / "model.safetensors", model)
    assert check(folder, "--model", str(path)) == 1
    assert [(shape, sorted(labels)) for shape, labels in seen] == [
        ((12, 8), [0] * 6 + [1] * 6)
    ]
