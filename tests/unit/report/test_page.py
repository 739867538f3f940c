"""The report page: ticks, charts, confusion and the HTML as a whole."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.errors import UserError
from mlp_mixer.evaluation.calibration import Calibration
from mlp_mixer.report import Report, Sample, render, write_report
from mlp_mixer.report.chart import Series, line_chart, nice_ticks, number, percent, thin
from mlp_mixer.report.confusion import class_rows, confused_pairs

ATTACK = "<script>alert(1)</script>"
VOID = {"meta", "link", "img", "br"}
NAN = math.nan

EMPTY = Report("Title", "", (), (), (), None, (), (), (), {}, {})


def sample(
    name: str = "a.png", true: str | None = "cat", best: str = "cat", side: int = 8
) -> Sample:
    return Sample(
        name,
        np.full((side, side, 1), 128, np.uint8),
        true,
        ((best, 0.75), ("cow", 0.25)),
    )


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
    "pico on digits",
    "one line",
    (("Top-1", "75%"),),
    (train_row(10, 2.0), train_row(20, 1.0), eval_row(20, 0.75)),
    ("cat", "cow"),
    np.array([[3, 0], [1, 0]]),
    (sample(),),
    (sample("b.png", "cow"),),
    (("Block 1", "What one sees.", np.zeros((6, 6, 3), np.uint8)),),
    {"train": {"epochs": 2, "betas": (0.9, 0.99), "ema": None}, "seed": 0},
    {"command": "mlp-mixer train", "data": {"n": 4}},
)


def test_calibration_leaves_out_what_few_answers_say() -> None:
    few = (0.3, 1.0, 4)
    many = ((0.7, 0.6, 40), (0.9, 0.95, 60))
    found = Calibration(0.123, (few, *many))
    page = render(
        dataclasses.replace(
            FULL, calibration=found, tempered=(1.5, Calibration(0.02, many))
        )
    )
    assert "Expected calibration error 12.3%" in page
    assert "divided by 1.50" in page
    assert "bring it to 2.0%" in page
    chart = page.split('id="calibration"')[1].split("</figure>")[0]
    assert chart.count("<circle") == 2 + 2
    assert ">confidence</text>" in chart
    assert "calibration" not in render(FULL).split("</style>")[1]


def test_a_map_is_a_second_picture() -> None:
    mapped = dataclasses.replace(
        sample("b.png", "cow"), heat=np.zeros((8, 8, 3), np.uint8)
    )
    page = render(dataclasses.replace(FULL, mistakes=(mapped,)))
    assert "the same under a map: red spoke for cat, blue against it" in page
    assert "maps show in red" in page
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
        return [
            attributes[attribute]
            for _, attributes in self.seen
            if attribute in attributes
        ]


@pytest.mark.parametrize(
    ("low", "high", "cover", "expected"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.3, False, [0, 0.1, 0.2, 0.3]),
        (0.61, 0.986, True, [0.6, 0.7, 0.8, 0.9, 1]),
        (0, 2.31, True, [0, 0.5, 1, 1.5, 2, 2.5]),
        (0, 1320, False, [0, 500, 1000]),
        (-3e-5, 3e-5, True, [-4e-5, -2e-5, 0, 2e-5, 4e-5]),
        (5, 5, True, [2, 4, 6, 8]),
        (0, 0, True, [-0.5, 0, 0.5]),
    ],
)
def test_nice_ticks(
    low: float, high: float, cover: bool, expected: list[float]
) -> None:
    assert nice_ticks(low, high, cover=cover) == expected


def test_ticks_are_few_round_and_inside_or_around_any_range() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        low = random.normal() * 10.0 ** random.integers(-8, 8)
        high = low + abs(random.normal()) * 10.0 ** random.integers(-8, 8)
        if high - low < 1e-9 * abs(low):
            continue
        around = nice_ticks(low, high, cover=True)
        inside = nice_ticks(low, high)
        slack = (around[1] - around[0]) * 0.02
        assert 2 <= len(around) <= 6
        assert around[0] <= low + slack
        assert around[-1] >= high - slack
        assert all(low - slack <= tick <= high + slack for tick in inside)
        assert len(inside) <= 6


def test_whole_ticks_have_no_fractions() -> None:
    assert nice_ticks(0, 1, whole=True) == [0, 1]
    assert nice_ticks(0, 3, whole=True) == [0, 1, 2, 3]


def test_numbers_read_well() -> None:
    assert [number(x) for x in (0, 1e-5, 0.0305, 1000, 12000, 2.5e6, 1e20)] == [
        *("0", "1e-5", "0.0305", "1000", "12k", "2.5M", "1e20")
    ]
    assert [percent(x) for x in (0, 0.5, 0.98614, 1)] == ["0%", "50%", "98.61%", "100%"]


def test_thin_keeps_order_ends_spikes_and_gaps() -> None:
    points = [(float(x), 1.0) for x in range(100_000)]
    points[5000] = (5000.0, 99.0)
    points[20_000:60_000] = [(float(x), NAN) for x in range(20_000, 60_000)]
    kept = thin(points)
    assert len(kept) <= 400
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert (5000.0, 99.0) in kept
    assert any(math.isnan(y) for _, y in kept)
    assert thin(points[:400]) == points[:400]


def test_chart_places_points_on_its_axes() -> None:
    chart = line_chart(
        "Loss", [Series("training", [(0, 2), (50, 1), (100, 0)], "last")]
    )
    (line,) = chart.lines
    assert line.path == "M48 24h0L197 110L346 196"
    assert chart.y_ticks[0] == (196, "0")
    assert chart.y_ticks[-1] == (24, "2")
    assert chart.x_ticks[-1] == (346, "100")
    assert line.note is not None
    assert (line.note.x, line.note.y, line.note.text, line.note.anchor) == (
        346,
        196,
        "0",
        "end",
    )
    assert chart.summary == "training: 2 to 0."


def test_chart_breaks_at_nan_and_says_so() -> None:
    chart = line_chart(
        "Loss", [Series("training", [(1, 2), (2, 1), (3, NAN), (4, math.inf), (5, 1)])]
    )
    assert chart.lines[0].path.count("M") == 2
    assert "inf" not in chart.lines[0].path
    assert chart.summary == "training: 2 to 1 (2 not finite)."


def test_chart_of_one_point_of_none_and_of_nan_only() -> None:
    one = line_chart(
        "Top-1",
        [Series("val", [(7, 1.0)], "highest", dots=True)],
        percent,
        from_zero=False,
        limits=(0, 1),
    )
    assert one.lines[0].dots
    assert one.y_ticks[-1][1] == "100%"
    assert one.summary == "val: 100%, highest 100% at step 7."
    for nothing in ([], [Series("val", [])], [Series("val", [(1, NAN)])]):
        assert line_chart("Top-1", nothing).lines == ()
    mixed = line_chart(
        "Loss", [Series("training", [(1, NAN)]), Series("val", [(1, 3)])]
    )
    assert mixed.summary == "training: no finite value among 1; val: 3."


def test_accuracies_beyond_the_limits_are_still_drawn() -> None:
    chart = line_chart(
        "Top-1",
        [Series("val", [(1, 97.0), (2, 98.0)])],
        percent,
        from_zero=False,
        limits=(0, 1),
    )
    assert len(chart.y_ticks) >= 2


def test_recall_and_precision() -> None:
    rows = class_rows(np.array([[3, 1, 0], [0, 1, 0], [0, 0, 0]]), ("a", "b", "c"))
    assert [(row.total, row.recall, row.precision) for row in rows] == [
        (4, 0.75, 1.0),
        (1, 1.0, 0.5),
        (0, None, None),
    ]


def test_confused_pairs_come_most_frequent_first() -> None:
    pairs = confused_pairs(
        np.array([[8, 2, 0], [5, 0, 0], [0, 1, 9]]), ("a", "b", "c"), most=2
    )
    assert [(pair.true, pair.predicted, pair.count, pair.share) for pair in pairs] == [
        *[("b", "a", 5, 1.0), ("a", "b", 2, 0.2)]
    ]
    assert confused_pairs(np.eye(3, dtype=int), ("a", "b", "c")) == []


def test_page_is_well_formed_self_contained_and_without_script() -> None:
    page = render(FULL)
    outline = Outline(page)
    tags = [tag for tag, _ in outline.seen]
    assert "script" not in tags
    assert all(str(value).startswith("data:") for value in outline.values("src"))
    assert all(
        str(value).startswith(("#", "data:")) for value in outline.values("href")
    )
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page
    assert tags.count("h1") == 1
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    assert {
        str(link)[1:] for link in outline.values("href") if str(link).startswith("#")
    } <= set(ids)
    assert all(
        attributes.get("alt") for tag, attributes in outline.seen if tag == "img"
    )
    assert tags.count("table") == tags.count("caption") == 4


def test_page_shows_everything_given() -> None:
    page = render(FULL)
    for text in ("pico on digits", "one line", "20 steps, 2 epochs, median 800 images per second", "What one sees.",
                 "4 pictures, 1 mistaken", "1 shown of 1 among 4 pictures", "train.betas", "[0.9, 0.99]", "data.n",
                 "Wrong: this is <strong>cow", "Correct: <strong>cat", "75.0%"):  # fmt: skip
        assert text in page, text


def test_text_from_users_is_escaped_everywhere() -> None:
    hostile = dataclasses.replace(
        FULL,
        title=ATTACK,
        subtitle=ATTACK,
        facts=((ATTACK, ATTACK),),
        journal=(train_row(1, 1.0), eval_row(1, 0.5, split=ATTACK)),
        classes=(ATTACK, 'x" onload="alert(1)'),
        samples=(
            sample(ATTACK, ATTACK, ATTACK),
            sample('"><b>', 'x" onload="alert(1)'),
        ),
        mistakes=(sample(ATTACK, ATTACK),),
        pictures=((ATTACK, ATTACK, FULL.pictures[0][2]),),
        config={ATTACK: ATTACK},
        provenance={ATTACK: [ATTACK]},
    )
    page = render(hostile)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    attributes = {name for _, given in Outline(page).seen for name in given}
    assert "onload" not in attributes
    many = dataclasses.replace(
        hostile, classes=(ATTACK,) * 30, confusion=np.ones((30, 30), int)
    )
    assert "<script" not in render(many)


def test_empty_report_is_a_page_without_sections() -> None:
    outline = Outline(render(EMPTY))
    assert not {"h2", "svg", "table", "img"} & {tag for tag, _ in outline.seen}
    Outline(render(dataclasses.replace(EMPTY, confusion=np.zeros((0, 0), int))))


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
    page = render(dataclasses.replace(EMPTY, journal=journal))
    Outline(page)
    assert not re.search(r'd="[^"]*(nan|inf)', page)
    assert len(page) < 60_000


def test_a_resumed_run_counts_its_last_rows() -> None:
    journal = (
        train_row(10, 9.0),
        train_row(20, 9.0),
        train_row(20, 1.0),
        train_row(30, 0.5),
    )
    assert "training: 9 to 0.5." in render(dataclasses.replace(EMPTY, journal=journal))
    journal = (train_row(10, 4.0), train_row(20, 9.0), train_row(20, 1.0))
    assert "training: 4 to 1." in render(dataclasses.replace(EMPTY, journal=journal))


def test_many_classes_become_a_list_of_pairs() -> None:
    confusion = np.eye(26, dtype=int)
    names = tuple(f"class {index}" for index in range(26))
    page = render(dataclasses.replace(EMPTY, classes=names, confusion=confusion))
    assert "No class was taken for another among 26 pictures." in page
    confusion[3, 4] = 3
    page = render(dataclasses.replace(EMPTY, classes=names, confusion=confusion))
    assert "3 mistakes among 29 pictures of 26 classes" in page
    assert "75.0%" in page


def test_the_line_on_mistakes_is_honest() -> None:
    right = dataclasses.replace(
        EMPTY, classes=("a", "b"), confusion=np.eye(2, dtype=int)
    )
    assert "No mistakes among 2 pictures." in render(right)
    hidden = dataclasses.replace(right, confusion=np.ones((2, 2), int))
    assert "2 among 4 pictures; none of them is shown here." in render(hidden)
    assert "istakes" not in render(
        dataclasses.replace(EMPTY, samples=(sample(true=None),))
    )


def embedded(page: str) -> Image.Image:
    found = re.search(
        r'src="data:image/png;base64,([^"]+)"( alt="[^"]*")( class="pixelated")?', page
    )
    assert found
    image = Image.open(io.BytesIO(base64.b64decode(found[1])))
    image.info["pixelated"] = bool(found[3])
    return image


def test_small_pictures_stay_exact_and_large_ones_shrink() -> None:
    small = embedded(render(dataclasses.replace(EMPTY, samples=(sample(),))))
    assert (small.size, small.info["pixelated"]) == ((8, 8), True)
    large = embedded(render(dataclasses.replace(EMPTY, samples=(sample(side=1000),))))
    assert (large.size, large.info["pixelated"]) == ((256, 256), False)


def test_odd_names_and_probabilities() -> None:
    odd = Sample(
        "\udcff.png", np.zeros((1, 1, 3), np.uint8), None, (("a", NAN), ("b", 1.5))
    )
    page = render(
        dataclasses.replace(EMPTY, samples=(odd, dataclasses.replace(odd, top=())))
    )
    page.encode()
    assert r"\udcff.png" in page
    assert "--share:0.0" in page
    assert odd.correct is None


def test_unfit_matrices_and_pictures_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"shape \(2, 3\) does not fit 2 classes: expected \(2, 2\)"
    ):
        render(dataclasses.replace(FULL, confusion=np.ones((2, 3), int)))
    with pytest.raises(UserError, match="expected uint8"):
        render(
            dataclasses.replace(
                FULL, samples=(dataclasses.replace(sample(), image=np.zeros((2, 2))),)
            )
        )


def test_write_report(tmp_path: Path) -> None:
    path = write_report(FULL, tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8") == render(FULL)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
