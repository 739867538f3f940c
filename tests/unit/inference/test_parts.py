"""Parts of all pictures: each picture is in one of them, on every machine in the same."""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlp_mixer import Checkpoint, Predictor, UserError
from mlp_mixer.inference import Part, join_answers, predict_to_file
from mlp_mixer.inference.parts import Turns, keyed


class KilledError(BaseException):
    """Stands for a kill."""


FORMATS = [".csv", ".json", ".jsonl", ".parquet"]


def names(part: str, pictures: list[Any]) -> list[str]:
    return [name for name, _ in Turns(Part.parse(part)).take(pictures)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixty names for one picture and for one that is none, in three folders."""
    folder = tmp_path / "photos"
    Image.new("RGB", (9, 7), (250, 20, 30)).save(tmp_path / "one.png")
    (tmp_path / "broken.png").write_bytes(b"<html>")
    for number in range(60):
        place = folder / f"{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        source = tmp_path / ("broken.png" if number % 7 == 6 else "one.png")
        (place / f"é, {number}.png").hardlink_to(source)
    return folder


def answer(
    checkpoint: Checkpoint,
    photos: Path,
    out: Path,
    part: str | None = None,
    **more: Any,
) -> Path:
    # One picture at a time: batches of other sizes add in another order.
    predict_to_file(
        Predictor(checkpoint, engine="plain", min_score=0.2, top=3),
        [str(photos), "nowhere.png"],
        out,
        part=part,
        batch_size=1,
        **more,
    )
    return out


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_parts_join_to_the_file_that_one_process_writes(
    checkpoint: Checkpoint, photos: Path, tmp_path: Path, suffix: str, count: int
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    whole = answer(checkpoint, photos, tmp_path / f"whole{suffix}")
    parts = [
        answer(checkpoint, photos, tmp_path / f"{number}{suffix}", f"{number}/{count}")
        for number in range(count, 0, -1)
    ]
    written = join_answers(tmp_path / f"joined{suffix}", parts)
    assert written.out.read_bytes() == whole.read_bytes()
    assert (written.pictures, written.failed) == (61, 9)
    assert written.unknown == 0


def test_more_parts_than_pictures_join_too(
    checkpoint: Checkpoint, photos: Path, tmp_path: Path
) -> None:
    some = photos / "0"
    for path in sorted(some.iterdir())[3:]:
        path.unlink()
    for suffix in FORMATS[:3]:
        whole = answer(checkpoint, some, tmp_path / f"whole{suffix}")
        parts = [
            answer(checkpoint, some, tmp_path / f"{n}{suffix}", f"{n}/9")
            for n in range(1, 10)
        ]
        assert any(b"/9 " not in part.read_bytes() for part in parts)
        joined = join_answers(tmp_path / f"joined{suffix}", parts).out
        assert joined.read_bytes() == whole.read_bytes()


def test_several_labels_join_too(
    checkpoint: Checkpoint, photos: Path, tmp_path: Path
) -> None:
    several = {"thresholds": [0.3] * 6}
    predictor = Predictor(replace(checkpoint, provenance=several), engine="plain")
    assert predictor.thresholds is not None
    files = []
    for name, part in (("whole", None), ("1", "1/2"), ("2", "2/2")):
        files.append(tmp_path / f"{name}.csv")
        predict_to_file(predictor, [photos], files[-1], part=part, batch_size=1)
    joined = join_answers(tmp_path / "joined.csv", files[1:]).out
    assert joined.read_bytes() == files[0].read_bytes()


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_every_picture_is_in_one_part(tree: Path, count: int) -> None:
    array = np.zeros((4, 4, 3), np.uint8)
    pictures = [tree, array, "http://127.0.0.1:9/x.jpg", str(tree / "b*.png"), array]
    whole = [named[0] for _, named in keyed(pictures)]
    shared = [names(f"{n}/{count}", pictures) for n in range(1, count + 1)]
    assert sorted(itertools.chain.from_iterable(shared)) == sorted(whole)
    assert "image 1" in whole
    assert "image 4" in whole


def test_a_folder_may_be_mounted_at_another_place(tree: Path, tmp_path: Path) -> None:
    tree.rename(tmp_path / "elsewhere")
    there = names("1/2", [tmp_path / "elsewhere"])
    (tmp_path / "elsewhere").rename(tree)
    here = names("1/2", [tree])
    assert [str(Path(name).relative_to(tree)) for name in here] == [
        str(Path(name).relative_to(tmp_path / "elsewhere")) for name in there
    ]
    # The same of a pattern, whose beginning is the folder.
    pattern = names("1/2", [str(tree / "**" / "*.[pP]*")])
    assert set(here) == set(pattern)


def test_two_spellings_of_an_accent_are_one_name() -> None:
    for word in ("é ü.png", "ångström/å.jpg", "한국.png"):
        spellings = {unicodedata.normalize(form, word) for form in ("NFC", "NFD")}
        assert len(spellings) == 2
        holders = [
            [number for number in range(1, 98) if Part(number, 97).holds(spelling)]
            for spelling in spellings
        ]
        assert len(holders[0]) == 1
        assert holders[0] == holders[1]
    # A name that is no text is in one part as well.
    assert sum(Part(n, 3).holds("\udcff.png") for n in (1, 2, 3)) == 1


def test_parts_are_of_like_size() -> None:
    sizes = [0] * 8
    for number in range(4000):
        held = [n for n in range(8) if Part(n + 1, 8).holds(f"folder/{number}.jpg")]
        assert len(held) == 1
        sizes[held[0]] += 1
    # 500 each; the standard deviation is 21.
    assert max(abs(size - 500) for size in sizes) < 100


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("3", "expected NUMBER/PARTS"),
        ("a/b", "expected NUMBER/PARTS"),
        ("1/", "expected NUMBER/PARTS"),
        ("-1/3", "expected NUMBER/PARTS"),
        ("1/2/3", "expected NUMBER/PARTS"),
        ("9" * 5000 + "/3", "expected NUMBER/PARTS"),
        ("0/3", "numbered from 1 to 3"),
        ("4/3", "numbered from 1 to 3"),
        ("1/0", "1 to 10,000 parts"),
        ("1/10001", "1 to 10,000 parts"),
    ],
)
def test_parts_that_are_none(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        Part.parse(text)


def test_a_part_that_is_killed_again_and_again_answers_each_picture_once(
    checkpoint: Checkpoint,
    photos: Path,
    tmp_path: Path,
) -> None:
    whole = answer(checkpoint, photos, tmp_path / "whole.jsonl")
    parts = []
    for number in (1, 2):
        out = tmp_path / f"{number}.jsonl"
        parts.append(out)
        for _ in range(4):
            left = 3

            def report(_: object) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    raise KilledError

            with pytest.raises(KilledError):
                answer(
                    checkpoint, photos, out, f"{number}/2", resume=True, report=report
                )
            assert not out.exists()
            # A kill may tear the last line.
            unfinished = out.with_name(f"{out.name}.unfinished")
            unfinished.write_bytes(unfinished.read_bytes()[:-4])
        with pytest.raises(UserError, match="other weights or settings"):
            answer(checkpoint, photos, out, f"{number}/3", resume=True)
        with pytest.raises(UserError, match="go on with --resume"):
            join_answers(tmp_path / "early.jsonl", [out])
        answer(checkpoint, photos, out, f"{number}/2", resume=True)
    joined = join_answers(tmp_path / "joined.jsonl", parts).out
    assert joined.read_bytes() == whole.read_bytes()


def test_pictures_that_change_between_the_parts_are_found(
    checkpoint: Checkpoint, photos: Path, tmp_path: Path
) -> None:
    first = answer(checkpoint, photos, tmp_path / "1.csv", "1/2")
    (photos / "0" / "a new one.png").hardlink_to(tmp_path / "one.png")
    second = answer(checkpoint, photos, tmp_path / "2.csv", "2/2")
    with pytest.raises(UserError, match="have changed between the parts"):
        join_answers(tmp_path / "joined.csv", [first, second])
    assert not (tmp_path / "joined.csv").exists()


def test_what_is_no_whole_is_refused(
    checkpoint: Checkpoint, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "joined.csv"
    one, two = (
        answer(checkpoint, photos, tmp_path / f"{n}.csv", f"{n}/2") for n in (1, 2)
    )
    third = answer(checkpoint, photos, tmp_path / "3.csv", "3/3")
    alone = answer(checkpoint, photos, tmp_path / "alone.csv")
    copy = tmp_path / "copy.csv"
    copy.write_bytes(one.read_bytes())
    other = tmp_path / "other.csv"
    predict_to_file(
        Predictor(checkpoint, engine="plain", top=2), [photos], other, part="2/2"
    )
    for files, why in (
        ([one], "1 of 2 were given, without 2"),
        ([one, copy], "both part 1 of 2"),
        ([one, two, copy], "both part 1 of 2"),
        ([one, other], "no parts of one whole"),
        ([one, third], "no parts of one whole"),
        ([one, alone], "no columns position and part"),
        ([one, tmp_path / "2.json"], "expected parts that end in .csv"),
        ([one, tmp_path / "none.csv"], "there is no part"),
        ([], "there are no parts"),
    ):
        with pytest.raises(UserError, match=why):
            join_answers(out, files)
        assert not out.exists()
    join_answers(out, [one, two])
    with pytest.raises(UserError, match="--overwrite"):
        join_answers(out, [one, two])
    join_answers(out, [one, two], overwrite=True)


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_parts_are_one_sentence(
    checkpoint: Checkpoint, photos: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    part = answer(checkpoint, photos, tmp_path / f"1{suffix}", "1/1")
    data = part.read_bytes()
    middle = len(data) // 2
    for damaged in (
        data[: middle + 3],
        data[:middle] + b"\xff\x00\xfe" + data[middle:],
        b"\n[[[" * 40_000,
        b'{"path": 3}\n{"path"',
    ):
        part.write_bytes(damaged)
        with pytest.raises(UserError, match="is no part that|have changed"):
            join_answers(tmp_path / f"joined{suffix}", [part])
        assert not (tmp_path / f"joined{suffix}").exists()
