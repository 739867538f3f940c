"""Files move aside and back; nothing is replaced, whatever the disk says.

Kills in between are in tests/cli/test_data_check.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mlp_mixer.check.quarantine import place_for, put_back, set_aside
from mlp_mixer.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in ("a/1.jpg", "a/2.jpg", "a/manifest.json", "b/1.jpg", "manifest.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def contents(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_text() for path in files}


def test_files_and_folders_move_and_come_back(folder: Path) -> None:
    before = contents(folder)
    names = ["b", "b/1.jpg", "a/1.jpg", "manifest.json", "a/manifest.json", "gone.jpg"]
    assert set_aside(folder, names) == 5
    assert contents(folder) == {"a/2.jpg": "a/2.jpg"}
    assert not (folder / "b").exists()
    assert put_back(folder) == (5, [])
    assert contents(folder) == before
    assert not place_for(folder).exists()


def test_nothing_to_move_makes_no_folder(folder: Path) -> None:
    assert set_aside(folder, []) == 0
    assert not place_for(folder).exists()


def test_a_place_that_is_taken_stays_as_it_is(folder: Path) -> None:
    set_aside(folder, ["a/1.jpg", "a/2.jpg"])
    (folder / "a/1.jpg").write_text("new")
    assert put_back(folder) == (1, ["a/1.jpg"])
    assert (folder / "a/1.jpg").read_text() == "new"
    (folder / "a/1.jpg").unlink()
    assert put_back(folder) == (1, [])
    assert (folder / "a/1.jpg").read_text() == "a/1.jpg"


def test_what_others_put_there_is_not_removed(folder: Path) -> None:
    set_aside(folder, ["a/1.jpg"])
    (place_for(folder) / "a/mine.txt").write_text("mine")
    assert put_back(folder) == (1, [])
    assert contents(place_for(folder)) == {"a/mine.txt": "mine"}


def test_a_manifest_that_cannot_be_read_is_one_sentence(folder: Path) -> None:
    with pytest.raises(UserError, match="nothing of .* was set aside"):
        put_back(folder)
    set_aside(folder, ["a/1.jpg"])
    (place_for(folder) / "manifest.json").write_text("{")
    for act in (lambda: put_back(folder), lambda: set_aside(folder, ["a/2.jpg"])):
        with pytest.raises(UserError, match="move it away to begin anew"):
            act()
    assert (folder / "a/2.jpg").exists()


def test_what_the_disk_refuses_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had been moved by then comes back."""
    before = contents(folder)
    rename = os.rename
    moved = []

    def refused(source: str, target: str, **places: int) -> None:
        if len(moved) == 3:
            raise OSError(18, "Invalid cross-device link")
        moved.append(target)
        rename(source, target, **places)

    expected = "cannot move .*: Invalid cross-device link; --undo puts back"
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refused)
        with pytest.raises(UserError, match=expected):
            set_aside(folder, sorted(before))
    count, blocked = put_back(folder)
    assert count == 3
    assert not blocked
    assert contents(folder) == before


STRANGE = {
    "above": {"x": "../../planted"},
    "absolute": {"x": "/planted"},
    "from above": {"../secret": "a/1.jpg"},
    "through a link": {"x": "link/1.jpg"},
    "the folder itself": {"x": "."},
    "nothing": {"x": ""},
    "a number": {"x": 3},
    "a null byte": {"x": "a\0b"},
    "a list": ["x"],
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strangers_list_moves_nothing_out(folder: Path, name: str) -> None:
    aside = place_for(folder)
    aside.mkdir()
    (aside / "x").write_text("payload")
    (folder.parent / "secret").write_text("secret")
    (folder / "link").symlink_to(folder.parent)
    (aside / "manifest.json").write_text(json.dumps(STRANGE[name]))
    before = contents(folder.parent)
    with pytest.raises(
        UserError, match="inside the folder; move it away to begin anew"
    ):
        put_back(folder)
    assert contents(folder.parent) == before
