"""What `data check --fix` and `--undo` move lies inside the folder, whoever made it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from mlp_mixer.check import check_folder, inside, quarantine
from mlp_mixer.check.quarantine import place_for, put_back, set_aside
from mlp_mixer.errors import UserError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links of POSIX")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of pictures beside somebody's own files."""
    for name in ("photos/a/1.jpg", "photos/a/2.jpg", "photos/b/1.jpg", "own/1.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "photos"


def everything(folder: Path) -> dict[str, str]:
    """All that lies below a folder: files with their text, links with their target."""
    found = {}
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(above, name)
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = f"-> {path.readlink()}"
            elif path.is_file():
                found[key] = path.read_text()
    return found


@pytest.mark.parametrize(
    "name", ["link/1.jpg", "../own/1.jpg", "a/../../own/1.jpg", "a/link/1.jpg", "/own"]
)
def test_nothing_is_set_aside_through_a_link_nor_before_all_is_looked_at(
    root: Path, name: str
) -> None:
    (root / "link").symlink_to(root.parent / "own")
    (root / "a/link").symlink_to("../../own")
    before = everything(root.parent)
    with pytest.raises(UserError, match="does not lie inside .*nothing was moved"):
        set_aside(root, ["a/1.jpg", "b/1.jpg", name])
    assert everything(root.parent) == before


def test_a_link_itself_is_moved_and_comes_back(root: Path) -> None:
    (root / "a/link.jpg").symlink_to("../../own/1.jpg")
    (root / "c").symlink_to("../own")
    before = everything(root.parent)
    assert set_aside(root, ["a/link.jpg", "c"]) == 2
    assert (place_for(root) / "c").is_symlink()
    assert (root.parent / "own/1.jpg").read_text() == "own/1.jpg"
    assert put_back(root) == (2, [])
    assert everything(root.parent) == before


@pytest.mark.parametrize("what", ["the place", "its list", "the lock", "a class in it"])
def test_the_place_may_be_somebodys_trap(root: Path, what: str) -> None:
    own = root.parent / "own"
    aside = place_for(root)
    if what == "the place":
        aside.symlink_to(own)
    else:
        aside.mkdir()
    if what == "its list":
        (own / "list").write_text(json.dumps({"1.jpg": "stolen.jpg"}))
        (aside / "manifest.json").symlink_to(own / "list")
    if what == "the lock":
        (aside / ".claimed").symlink_to(own / "new")
    if what == "a class in it":
        (aside / "a").symlink_to(own)
    before = everything(root.parent)
    with pytest.raises(UserError, match="a link"):
        set_aside(root, ["a/1.jpg"])
    if what in ("the place", "its list"):
        with pytest.raises(
            UserError, match="is a link, through which nothing is moved"
        ):
            put_back(root)
    assert everything(root.parent) == before


@pytest.mark.parametrize(
    "moves",
    [
        {"a/1.jpg": "a/new.jpg", "link/1.jpg": "b/new.jpg"},
        {"a/1.jpg": "a/new.jpg", "a/2.jpg": "../own/new.jpg"},
        {"a/1.jpg": "a/new.jpg", "a/2.jpg": "link/new.jpg"},
        {"a/1.jpg": "a/new.jpg", "manifest.json": "b/new.jpg"},
        {"a/1.jpg": "a/new.jpg", ".claimed": "b/new.jpg"},
        {"a/1.jpg": "a/new.jpg", "a/./../../own/1.jpg": "b/new.jpg"},
        {"a/1.jpg": "a/new.jpg", "/etc/hostname": "b/new.jpg"},
        {"a/1.jpg": "a/new.jpg", "a/2.jpg": ["b"]},
        {"a/1.jpg": "a/new.jpg", "a/2.jpg": "b/\0"},
    ],
)
def test_one_strange_line_of_a_list_and_nothing_comes_back(
    root: Path, moves: dict[str, object]
) -> None:
    aside = place_for(root)
    (aside / "a").mkdir(parents=True)
    for name in ("a/1.jpg", "a/2.jpg"):
        (aside / name).write_text("payload")
    for folder in (root, aside):
        (folder / "link").symlink_to(root.parent / "own")
    (aside / "manifest.json").write_text(json.dumps(moves))
    before = everything(root.parent)
    for act in (lambda: put_back(root), lambda: set_aside(root, ["a/1.jpg"])):
        with pytest.raises(UserError, match="no file inside the folder"):
            act()
    assert everything(root.parent) == before


def test_a_list_of_millions_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "_MOST_MOVES", 0)
    place_for(root).mkdir()
    text = json.dumps({"a": "," * 1_100_000})
    (place_for(root) / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="has more than 1,048,576 values"):
        put_back(root)


@pytest.mark.parametrize("way", ["aside", "back"])
@pytest.mark.parametrize("where", ["source", "target"])
def test_a_link_that_is_swapped_in_later_leads_nowhere(
    root: Path, monkeypatch: pytest.MonkeyPatch, way: str, where: str
) -> None:
    """Another process puts it there after all was looked at."""
    if way == "back":
        set_aside(root, ["a/1.jpg", "a/2.jpg", "b/1.jpg"])
    own = root.parent / "own"
    # Through the link there would be something to take, or room to put it.
    if where == "source":
        (own / "2.jpg").write_text("own")
    before = everything(own)
    real = inside.move
    moved = []

    def swapped(source: Path, name: str, target: Path, place: str) -> None:
        if moved:
            folder = source if where == "source" else target
            if not (folder / "a").is_symlink():
                (folder / "a").rename(folder / "kept")
                (folder / "a").symlink_to(own)
        moved.append(name)
        real(source, name, target, place)

    monkeypatch.setattr(quarantine, "move", swapped)
    names = ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    act = put_back if way == "back" else lambda folder: set_aside(folder, names)
    with pytest.raises(UserError, match="cannot move .*a/"):
        act(root)
    assert everything(own) == before


def test_nothing_is_replaced(root: Path) -> None:
    with pytest.raises(FileExistsError):
        inside.move(root, "a/1.jpg", root, "a/2.jpg")
    (root / "a/3.jpg").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        inside.move(root, "a/1.jpg", root, "a/3.jpg")
    assert (root / "a/1.jpg").read_text() == "photos/a/1.jpg"
    inside.move(root, "a/1.jpg", root, "new/deep/1.jpg")
    assert (root / "new/deep/1.jpg").read_text() == "photos/a/1.jpg"


def test_other_systems_look_before_they_move(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "_FROM_HANDLES", False)
    test_nothing_is_replaced(root)
    (root / "link").symlink_to("../own")
    for name, place in (("link/1.jpg", "x.jpg"), ("a/2.jpg", "link/x.jpg")):
        with pytest.raises(OSError, match="a link is on the way"):
            inside.move(root, name, root, place)


def test_a_linked_class_is_looked_at_and_stays(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for number, name in enumerate(("sea/1.png", "sea/2.png", "own/1.png")):
        path = (tmp_path if name.startswith("own") else root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 50 + 50 * number).save(path)
    (root / "sea/bad.png").write_bytes(b"\x89PNG")
    (tmp_path / "own/bad.png").write_bytes(b"\x89PNG")
    (root / "sky").symlink_to("../own")
    (root / "sea/l.png").symlink_to("2.png")
    found = check_folder(root, workers=1)
    assert found.behind_links() == ["sky/bad.png"]
    movable = found.movable()
    assert "sky/bad.png" not in movable
    assert "sea/bad.png" in movable
    # The link has the shorter name and stays: so does what it leads to.
    assert "sea/2.png" not in movable
    set_aside(root, movable)
    assert (tmp_path / "own/bad.png").exists()
