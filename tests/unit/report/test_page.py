"""The report page as a whole: well-formed, self-contained, honest, and escaped."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.errors import UserError
from mlp_mixer.evaluation.calibration import Calibration
from mlp_mixer.report import Report, Sample, render, write_report
from mlp_mixer.report.page import Drawing, epochs

ATTACK = "<script>alert(1)</script>"
VOID = {"meta", "link", "img", "br", "source"}
NAN = math.nan
PIXELS = np.zeros((6, 6, 3), np.uint8)

EMPTY = Report(
    title="Title",
    subtitle="",
    facts=(),
    journal=(),
    classes=(),
    confusion=None,
    samples=(),
    mistakes=(),
    pictures=(),
    config={},
    provenance={},
)


def sample(
    name: str = "a.png", true: str | None = "cat", best: str = "cat", side: int = 8
) -> Sample:
    gray = np.full((side, side, 1), 128, np.uint8)
    return Sample(name, gray, true, ((best, 0.75), ("cow", 0.25)))


def train_row(step: int, loss: float | None, **more: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": step,
        "epoch": step / 10,
        "loss": loss,
        "lr": 1e-3,
        "images_per_second": 800.0,
    } | more


def eval_row(step: int, top1: float, split: str = "val") -> dict[str, Any]:
    return {
        "kind": "eval",
        "split": split,
        "step": step,
        "epoch": 1.0,
        "top1": top1,
        "top5": 1.0,
        "loss": 0.1,
        "n": 9,
    }


FULL = Report(
    title="pico on digits",
    subtitle="one line",
    facts=(("Top-1", "75%"),),
    journal=(train_row(10, 2.0), train_row(20, 1.0), eval_row(20, 0.75)),
    classes=("cat", "cow"),
    confusion=np.array([[3, 0], [1, 0]]),
    samples=(sample(),),
    mistakes=(sample("b.png", "cow"),),
    pictures=(Drawing("Block 1", "What one sees.", PIXELS, 255 - PIXELS),),
    config={"train": {"epochs": 2, "betas": (0.9, 0.99), "ema": None}, "seed": 0},
    provenance={"command": "mlp-mixer train", "data": {"n": 4}},
)


def test_calibration_leaves_out_what_few_answers_say() -> None:
    few = (0.3, 1.0, 4)
    many = ((0.7, 0.6, 40), (0.9, 0.95, 60))
    found = Calibration(0.123, (few, *many))
    better = Calibration(0.02, many)
    page = render(replace(FULL, calibration=found, tempered=(1.5, better)))
    error = "Expected calibration error 12.3%: the mean gap between confidence and"
    assert error in page
    assert "Dividing the logits by 1.50" in page
    assert "brings it to 2.0%" in page
    chart = page.split('id="calibration"')[1].split("</figure>")[0]
    assert chart.count("<circle") == 2 + 2
    assert ">confidence</text>" in chart
    assert "calibration" not in render(FULL).split("</style>")[1]


def calibrated(error: float, count: int = 100) -> Calibration:
    return Calibration(error, ((0.7, 0.6, count),))


def test_a_temperature_that_makes_it_worse_is_called_so() -> None:
    worse = render(
        replace(FULL, calibration=calibrated(0.075), tempered=(2.06, calibrated(0.13)))
    )
    assert "validation images, makes it worse: 13.0%." in worse
    same = render(
        replace(FULL, calibration=calibrated(0.075), tempered=(1, calibrated(0.0752)))
    )
    assert "leaves it as it is." in same


def test_too_few_images_judge_no_confidence() -> None:
    page = render(replace(FULL, calibration=calibrated(0.075, 24)))
    section = page.split('id="calibration"')[1].split("</section>")[0]
    assert "Too few images to judge confidence: 24." in section
    assert "7.5%" not in section
    assert "<svg" not in section
    enough = replace(FULL, calibration=calibrated(0.075), remark="Too few to choose.")
    assert "accuracy. Too few to choose.</p>" in render(enough)


def test_five_classes_have_no_top_5_anywhere() -> None:
    measured = {"top1": 2 / 3, "top5": 1.0}
    few = replace(FULL, provenance={"measured": measured})
    page = render(few).lower()
    assert "top-5" not in page
    assert "top5" not in page
    # The exact number is in the checkpoint; here a reader wants no 16 digits.
    assert "0.66667<" in page
    many = replace(few, classes=tuple("abcdef"), confusion=np.eye(6, dtype=int))
    assert "Top-5" in render(many)
    assert "measured.top5" in render(many)


def test_epochs_are_told_without_fractions() -> None:
    told = {11.0345: "11", 0.25: "0.25", 300: "300", 2.5: "2.5", 0: "0"}
    for value, text in told.items():
        assert epochs(value) == text
    row = train_row(10, 2.0, epoch=11.0345)
    assert "10 steps, 11 epochs, " in render(replace(FULL, journal=(row,)))


def test_a_split_has_one_line_in_all_charts() -> None:
    page = render(FULL).split("</style>")[1]
    loss, accuracy = page.split("</figure>")[:2]
    assert loss.count('class="series s1 d1"') == 1
    assert accuracy.count('class="series s1 d1"') == 1
    assert 'class="series s0 d0"' not in accuracy


def test_a_map_is_a_second_picture() -> None:
    heat = np.zeros((8, 8, 3), np.uint8)
    mapped = replace(sample("b.png", "cow"), heat=heat)
    page = render(replace(FULL, mistakes=(mapped,)))
    assert "under a map: red places speak for cat, blue ones against it" in page
    assert "On a map, red places speak for the answer" in page
    assert "under a map" not in render(FULL)


class Outline(HTMLParser):
    """Collects tags and checks that each one is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"<{tag}> repeats an attribute"
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, attribute: str) -> list[str | None]:
        found = []
        for _, attributes in self.seen:
            if attribute in attributes:
                found.append(attributes[attribute])
        return found


def test_page_is_well_formed_self_contained_and_without_script() -> None:
    page = render(FULL)
    outline = Outline(page)
    tags = [tag for tag, _ in outline.seen]
    assert "script" not in tags
    assert tags.count("h1") == 1
    assert tags.count("table") == tags.count("caption") == 4
    images = [attributes for tag, attributes in outline.seen if tag == "img"]
    assert all(attributes.get("alt") for attributes in images)
    for word in ("http://", "https://", "url("):
        assert word not in page
    assert "default-src 'none'" in page
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    for source in outline.values("src"):
        assert str(source).startswith("data:")
    for link in outline.values("href"):
        assert str(link).startswith("data:") or str(link).removeprefix("#") in ids


def test_page_shows_everything_given() -> None:
    page = render(FULL)
    for text in (
        "pico on digits",
        "one line",
        "20 steps, 2 epochs, median 800 images per second",
        "What one sees.",
        "4 pictures, 1 mistaken",
        "The 1 with the highest confidence, of 1 mistakes among 4 pictures.",
        "train.betas",
        "[0.9, 0.99]",
        "data.n",
        "Wrong: this is <strong>cow",
        "Correct: <strong>cat",
        "75.0%",
    ):
        assert text in page, text


def test_text_from_users_is_escaped_everywhere() -> None:
    attribute = 'x" onload="alert(1)'
    hostile = replace(
        FULL,
        title=ATTACK,
        subtitle=ATTACK,
        facts=((ATTACK, ATTACK),),
        journal=(train_row(1, 1.0), eval_row(1, 0.5, split=ATTACK)),
        classes=(ATTACK, attribute),
        samples=(sample(ATTACK, ATTACK, ATTACK), sample('"><b>', attribute)),
        mistakes=(sample(ATTACK, ATTACK),),
        pictures=(Drawing(ATTACK, ATTACK, PIXELS, PIXELS),),
        config={ATTACK: ATTACK},
        provenance={ATTACK: [ATTACK]},
    )
    page = render(hostile)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    attributes = {name for _, given in Outline(page).seen for name in given}
    assert "onload" not in attributes
    counts = np.ones((30, 30), int)
    many = replace(hostile, classes=(ATTACK,) * 30, confusion=counts)
    assert "<script" not in render(many)


def test_empty_report_is_a_page_without_sections() -> None:
    outline = Outline(render(EMPTY))
    assert not {"h2", "svg", "table", "img"} & {tag for tag, _ in outline.seen}
    Outline(render(replace(EMPTY, confusion=np.zeros((0, 0), int))))


@pytest.mark.parametrize(
    "journal",
    [
        ({"kind": "train"}, {"kind": "eval"}, {"kind": "other"}),
        (train_row(1, None), eval_row(1, 0.5)),
        (train_row(1, NAN), train_row(2, math.inf, epoch=NAN)),
        tuple(train_row(step, 1 / step) for step in range(1, 5000)),
    ],
)
def test_any_journal_gives_a_page(journal: tuple[dict[str, Any], ...]) -> None:
    page = render(replace(EMPTY, journal=journal))
    Outline(page)
    assert not re.search(r'd="[^"]*(nan|inf)', page)
    assert len(page) < 60_000


def test_a_resumed_run_counts_its_last_rows() -> None:
    before = (train_row(10, 9.0), train_row(20, 9.0))
    after = (train_row(20, 1.0), train_row(30, 0.5))
    page = render(replace(EMPTY, journal=(*before, *after)))
    assert "training: 9 to 0.5." in page
    journal = (train_row(10, 4.0), train_row(20, 9.0), train_row(20, 1.0))
    assert "training: 4 to 1." in render(replace(EMPTY, journal=journal))


def test_many_classes_become_a_list_of_pairs() -> None:
    confusion = np.eye(26, dtype=int)
    names = tuple(f"class {index}" for index in range(26))
    page = render(replace(EMPTY, classes=names, confusion=confusion))
    assert "No class was taken for another among 26 pictures." in page
    confusion[3, 4] = 3
    page = render(replace(EMPTY, classes=names, confusion=confusion))
    assert "3 mistakes among 29 pictures of 26 classes" in page
    assert "75.0%" in page


def test_the_line_on_mistakes_is_honest() -> None:
    confusion = np.eye(2, dtype=int)
    right = replace(EMPTY, classes=("a", "b"), confusion=confusion)
    assert "No mistakes among 2 pictures." in render(right)
    hidden = render(replace(right, confusion=np.ones((2, 2), int)))
    assert "2 mistakes among 4 pictures; this page shows none of them." in hidden
    unknown = replace(EMPTY, samples=(sample(true=None),))
    assert "istakes" not in render(unknown)


def embedded(page: str) -> tuple[tuple[int, int], bool]:
    """Return the size of the first picture, and whether its pixels stay squares."""
    pattern = r'src="data:image/png;base64,([^"]+)" alt="[^"]*"( class="pixelated")?'
    found = re.search(pattern, page)
    assert found
    image = Image.open(io.BytesIO(base64.b64decode(found[1])))
    return image.size, bool(found[2])


def test_small_pictures_stay_exact_and_large_ones_shrink() -> None:
    small = render(replace(EMPTY, samples=(sample(),)))
    assert embedded(small) == ((8, 8), True)
    large = render(replace(EMPTY, samples=(sample(side=1000),)))
    assert embedded(large) == ((256, 256), False)


def test_odd_names_and_probabilities() -> None:
    dot = np.zeros((1, 1, 3), np.uint8)
    odd = Sample("\udcff.png", dot, None, (("a", NAN), ("b", 1.5)))
    page = render(replace(EMPTY, samples=(odd, replace(odd, top=()))))
    page.encode()
    assert r"\udcff.png" in page
    assert "--share:0.0" in page
    assert odd.correct is None


def test_unfit_matrices_and_pictures_are_refused() -> None:
    expected = r"shape \(2, 3\) does not fit 2 classes: expected \(2, 2\)"
    with pytest.raises(UserError, match=expected):
        render(replace(FULL, confusion=np.ones((2, 3), int)))
    floats = replace(sample(), image=np.zeros((2, 2)))
    with pytest.raises(UserError, match="expected uint8"):
        render(replace(FULL, samples=(floats,)))


def test_write_report(tmp_path: Path) -> None:
    path = write_report(FULL, tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8") == render(FULL)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
