"""The page of `mlp-mixer report` in a real Chromium, without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from mlp_mixer.report import Report, write_report
from mlp_mixer.report.page import CellPictures


@pytest.fixture(params=[("light", 1280), ("dark", 390)], ids=["wide", "narrow"])
def report(
    chromium: Browser, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """A page with a wide confusion matrix, whose cells have pictures."""
    classes = 12
    image = np.full((60, 80, 3), (200, 90, 40), np.uint8)
    pictures = tuple((f"{number}.png", image) for number in range(12))
    confusion = np.eye(classes, dtype=int) * 20
    confusion[2, 11] = 15
    confusion[0, 1] = 1
    cells = (CellPictures(2, 11, pictures), CellPictures(0, 1, pictures[:1]))
    made = Report(
        title="tiny",
        subtitle="",
        facts=(),
        journal=(),
        classes=tuple(f"class {number}" for number in range(classes)),
        confusion=confusion,
        samples=(),
        mistakes=(),
        pictures=(),
        config={},
        provenance={},
        cells=cells,
    )
    path = write_report(made, tmp_path / "report.html")
    scheme, width = request.param
    context = chromium.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": 700},
        java_script_enabled=False,
    )
    page = context.new_page()
    page.goto(path.as_uri())
    yield page
    context.close()


def test_a_cell_opens_its_pictures_by_mouse_and_by_keyboard(report: Page) -> None:
    drawers = report.locator(".drawer")
    mistake = report.locator("summary", has_text="15")
    expect(drawers.nth(1)).to_be_hidden()
    mistake.click()
    expect(drawers.nth(1)).to_be_visible()
    expect(drawers.nth(1)).to_contain_text("class 2 taken for class 11: 12 of 15 shown")
    # In the window, whatever the frame of the table cuts off.
    expect(drawers.nth(1).locator("img").first).to_be_in_viewport()
    # Another one closes it.
    report.locator("summary", has_text="1").first.focus()
    report.keyboard.press("Enter")
    expect(drawers.nth(0)).to_be_visible()
    expect(drawers.nth(1)).to_be_hidden()
    report.keyboard.press("Space")
    expect(drawers.nth(0)).to_be_hidden()


def test_the_drawer_has_a_button_to_close_it(report: Page) -> None:
    report.locator("summary", has_text="15").click()
    close = report.locator("details[open] .close")
    expect(close).to_be_in_viewport()
    close.click()
    expect(report.locator(".drawer").nth(1)).to_be_hidden()
