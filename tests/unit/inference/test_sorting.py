"""Pictures in folders of their answers: nothing is lost, whatever its name is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import mlp_mixer as mm
from mlp_mixer import Checkpoint, Predictor, UserError
from mlp_mixer.cli import run
from mlp_mixer.inference import Prediction, Sorter, predict_to_file
from mlp_mixer.inference.sorting import folder_names


@pytest.fixture
def predictor(checkpoint: Checkpoint) -> Predictor:
    return Predictor(checkpoint, min_score=0.6)


def answers(predictor: Predictor, source: Path) -> dict[str, str]:
    found = predictor.predict([source])
    return {a.path: a.pred_class for a in found if isinstance(a, Prediction)}


def sorted_files(folder: Path) -> dict[str, str]:
    """The file behind each link, and the name of the folder that it is in."""
    files = [path for path in folder.glob("*/*") if not path.name.startswith(".")]
    return {os.path.realpath(path): path.parent.name for path in files}


def sort(predictor: Predictor, source: Path, into: Path, by: str = "link") -> Sorter:
    with Sorter(predictor, into, by) as sorter:
        for answer in predictor.predict([source], outside=into):
            sorter.add(answer)
    return sorter


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, with its time."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
    }


def test_each_picture_is_linked_once(
    predictor: Predictor, tree: Path, tmp_path: Path
) -> None:
    """Also if the folder lies among the pictures, and the same run comes again."""
    expected = answers(predictor, tree)
    assert len(expected) == 6
    into = tree / "b" / "sorted"
    for _ in range(3):
        sorter = sort(predictor, tree, into)
        assert sorted_files(into) == {
            os.path.realpath(path): answer for path, answer in expected.items()
        }
        assert sorter.counts.total() == 6
    assert all(path.is_symlink() for path in into.glob("*/*"))
    assert len(list(into.glob("*/*"))) == 6


def test_equal_names_get_numbers(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    source = tmp_path / "days"
    for day in range(4):
        (source / str(day)).mkdir(parents=True)
        shutil.copy(pictures[0], source / str(day) / "IMG_1.png")
        with (source / str(day) / "IMG_1.png").open("ab") as file:
            file.write(bytes([day]))
    for by in ("link", "copy", "copy"):
        sort(predictor, source, tmp_path / by, by)
        (place,) = (path for path in (tmp_path / by).iterdir() if path.is_dir())
        names = ["IMG_1-2.png", "IMG_1-3.png", "IMG_1-4.png", "IMG_1.png"]
        assert sorted(path.name for path in place.iterdir()) == names
        assert {path.read_bytes()[-1] for path in place.iterdir()} == {0, 1, 2, 3}


def test_the_pictures_stay_as_they_were(
    predictor: Predictor, tree: Path, tmp_path: Path
) -> None:
    before = contents(tree)
    for by in ("link", "copy"):
        sort(predictor, tree, tmp_path / by, by)
    assert contents(tree) == before
    # A copy has the time of its picture.
    for path in (tmp_path / "copy").glob("*/*"):
        assert not path.is_symlink()
        times = {time for time, data in before.values() if data == path.read_bytes()}
        assert path.stat().st_mtime_ns in times


def test_without_links_it_copies(
    predictor: Predictor, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    sorter = sort(predictor, tree, tmp_path / "into")
    assert sorter.by == "copy"
    files = [p for p in (tmp_path / "into").glob("*/*") if not p.is_symlink()]
    assert len(files) == sorter.counts.total() == 6


def test_foreign_files_are_not_mixed_with_ours(
    predictor: Predictor, checkpoint: Checkpoint, tree: Path, tmp_path: Path
) -> None:
    before = contents(tree)
    with pytest.raises(UserError, match="holds other files; choose a new or an empty"):
        sort(predictor, tree, tree)
    assert contents(tree) == before
    sort(predictor, tree, tmp_path / "into")
    with pytest.raises(UserError, match="other weights or settings sorted"):
        sort(Predictor(checkpoint), tree, tmp_path / "into")
    # How many candidates are told is no such setting.
    sort(Predictor(checkpoint, min_score=0.6, top=1), tree, tmp_path / "into")
    with (
        Sorter(predictor, tmp_path / "into"),
        pytest.raises(UserError, match="unknown way to sort 'move'"),
    ):
        Sorter(predictor, tmp_path / "into", "move")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        sort(predictor, tree, tmp_path / "file")


@pytest.mark.parametrize("there", ["folder", "file", "nothing"])
def test_no_link_of_an_answer_is_followed(
    there: str, predictor: Predictor, tree: Path, tmp_path: Path
) -> None:
    """Wherever it leads; also one that came after a first run."""
    sort(predictor, tree, tmp_path / "sorted")
    name = next(iter(set(answers(predictor, tree).values())))
    shutil.rmtree(tmp_path / "sorted" / name)
    elsewhere = tmp_path / "elsewhere"
    if there == "folder":
        elsewhere.mkdir()
        (elsewhere / "of.somebody.tmp").write_text("theirs")
    if there == "file":
        elsewhere.write_text("theirs")
    (tmp_path / "sorted" / name).symlink_to(elsewhere)
    before = contents(tmp_path / "sorted")
    with pytest.raises(UserError, match="is a link"):
        sort(predictor, tree, tmp_path / "sorted", "copy")
    assert contents(tmp_path / "sorted") == before
    if there == "folder":
        assert [path.name for path in elsewhere.iterdir()] == ["of.somebody.tmp"]


def test_names_of_classes_become_names_of_folders() -> None:
    labels = [
        "unknown",
        "a/b",
        "a\\b",
        "..",
        ".",
        "",
        " ",
        "con",
        "LPT1.x",
        ".git",
        "é",
    ]
    labels += ["e\u0301", "Cat", "cat", "t-shirt ", "x" * 300, "a:b", "\n", "unknown-2"]
    names = folder_names(["unknown", *labels])
    assert list(names) == labels
    assert names["unknown"] == "unknown"
    assert [names[label] for label in ("a/b", "a\\b", "a:b")] == [
        "a_b",
        "a_b-2",
        "a_b-3",
    ]
    assert [names[label] for label in ("Cat", "cat")] == ["Cat", "cat-2"]
    assert [names[label] for label in ("con", "LPT1.x", ".git")] == [
        "_con",
        "_LPT1.x",
        "_git",
    ]
    found = list(names.values())
    assert len({name.casefold() for name in found}) == len(found)
    for name in found:
        assert name == name.strip()
        assert not set(name) & set('/\\:\0\n<>|?*"')
        assert name not in (".", "..", "")
        assert len(os.fsencode(name)) < 120


def test_a_hostile_class_stays_inside(
    checkpoint: Checkpoint, pictures: list[Path], tmp_path: Path
) -> None:
    labels = tuple(f"../../{letter}" for letter in "abcdef")
    predictor = Predictor(Checkpoint(checkpoint.model, checkpoint.preprocess, labels))
    sort(predictor, pictures[0], tmp_path / "deep" / "into")
    (place,) = (tmp_path / "deep" / "into").glob("*/")
    assert place.name.startswith("_._.._")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["into"]


def test_a_stopped_run_sorts_what_it_had_answered(
    predictor: Predictor, tree: Path, tmp_path: Path
) -> None:
    """The kill comes after an answer was kept and before its picture was sorted."""
    out = tmp_path / "a.jsonl"
    into = tmp_path / "into"

    def stop(answer: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_file(predictor, [tree], out, report=stop)
    with Sorter(predictor, into) as sorter:
        predict_to_file(predictor, [tree], out, resume=True, sorter=sorter)
    assert len(sorted_files(into)) == len(answers(predictor, tree)) == 6


def test_the_command_and_python_sort_alike(
    checkpoint: Checkpoint, tree: Path, tmp_path: Path, capsys: Any
) -> None:
    weights = mm.save(
        tmp_path / "w.safetensors",
        checkpoint.model,
        preprocess=checkpoint.preprocess,
        labels=checkpoint.labels,
    )
    (tree / "broken.png").write_bytes(b"")
    mm.predict(weights, tree, min_score=0.6, sort_into=tmp_path / "python")
    command = ["predict", str(weights), str(tree), "--min-score", "0.6"]
    for number, more in enumerate([[], ["--out", str(tmp_path / "a.csv")]]):
        into = tmp_path / str(number)
        assert run([*command, *more, "--sort-into", str(into)]) == 1
        error = capsys.readouterr().err
        assert f"sorted 6 pictures into {into}: " in error
        assert "(each is a link)" in error
        assert sorted_files(into) == sorted_files(tmp_path / "python")
    npz = ["--features", "norm", "--out", str(tmp_path / "a.npz")]
    assert run([*command[:3], *npz, "--sort-into", str(tmp_path / "x")]) == 2
    assert "go with answers" in capsys.readouterr().err
