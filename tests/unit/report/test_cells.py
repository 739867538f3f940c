"""The pictures of the cells of a confusion matrix: which, how many, and how they open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlp_mixer.data.image_set import ArraySet
from mlp_mixer.evaluation import Evaluation
from mlp_mixer.report import Report, render
from mlp_mixer.report.cells import cell_pictures
from mlp_mixer.report.page import CellPictures


def answers(
    labels: list[int], predictions: list[int], sure: list[float]
) -> tuple[ArraySet, Evaluation]:
    """Images whose pixels are their own number, and answers to them."""
    classes = max(*labels, *predictions) + 1
    probabilities = np.zeros((len(labels), classes), np.float32)
    probabilities[np.arange(len(labels)), predictions] = sure
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    images = ArraySet(np.broadcast_to(pixels, (len(labels), 4, 4, 1)), labels)
    found = Evaluation(
        n=len(labels),
        top1=0,
        top5=0,
        loss=0,
        labels=np.array(labels),
        probabilities=probabilities,
        scores=probabilities.max(axis=1),
    )
    return images, found


def numbers(cell: CellPictures) -> list[int]:
    """Which images a cell shows, by their pixels."""
    return [int(image[0, 0, 0]) for _, image in cell.pictures]


def test_each_cell_shows_its_own_pictures_the_surest_first() -> None:
    images, found = answers(
        labels=[0, 0, 0, 1, 1, 0],
        predictions=[0, 1, 1, 1, 0, 1],
        sure=[0.9, 0.6, 0.8, 0.5, 0.7, 0.7],
    )
    cells = cell_pictures(images, found)
    # Frequent mistakes, then rarer ones, then the diagonal.
    places = [(cell.true, cell.predicted) for cell in cells]
    assert places[:2] == [(0, 1), (1, 0)]
    assert set(places[2:]) == {(0, 0), (1, 1)}
    assert [numbers(cell) for cell in cells[:2]] == [[2, 5, 1], [4]]
    assert cells[0].pictures[0][0] == images.name(2)


def test_the_page_has_a_limit() -> None:
    labels = [k % 10 for k in range(200)]
    predictions = [k // 10 % 10 for k in range(200)]
    images, found = answers(labels, predictions, [0.5] * 200)
    shown = cell_pictures(images, found, most=60)
    assert sum(len(cell.pictures) for cell in shown) == 60
    assert {len(cell.pictures) for cell in shown} == {1}
    one = cell_pictures(*answers([0] * 99, [1] * 99, [0.5] * 99))
    assert [len(cell.pictures) for cell in one] == [12]


EMPTY = Report("t", "", (), (), (), None, (), (), (), {}, {})


@pytest.mark.parametrize("classes", [3, 30])
def test_a_number_of_the_table_or_of_the_list_opens_its_pictures(classes: int) -> None:
    names = tuple(f"class {k}" for k in range(classes))
    confusion = np.eye(classes, dtype=int)
    confusion[1, 2] = 5
    image = np.full((8, 8, 1), 7, np.uint8)
    cell = CellPictures(1, 2, (("<b>a.png", image), ("b.png", image)))
    page = render(
        replace(EMPTY, classes=names, confusion=confusion, cells=(cell,))
    ).split("</style>")[1]
    assert page.count("<details") == page.count("<summary") == 1
    assert "5: pictures of class 1 taken for class 2" in page
    assert "2 of 5 shown" in page
    assert page.count("<img") == 2
    assert "&lt;b&gt;a.png" in page
    plain = render(replace(EMPTY, classes=names, confusion=confusion))
    assert "<details" not in plain.split("</style>")[1]


def test_large_pictures_are_small_files() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 400, 3), np.uint8)
    cell = CellPictures(0, 1, (("a.png", noise),))
    confusion = np.array([[0, 1], [0, 0]])
    report = replace(EMPTY, classes=("a", "b"), confusion=confusion)
    with_picture = render(replace(report, cells=(cell,)))
    assert "data:image/jpeg;base64," in with_picture
    assert len(with_picture) - len(render(report)) < 20_000
