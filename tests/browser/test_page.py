"""The page of `mlp-mixer serve` in a real Chromium: what people do and are told."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect


def picture(side: int = 160, seed: int = 0, form: str = "PNG") -> bytes:
    """Return soft noise, which compresses."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), np.uint8)
    size = (side, side * 3 // 4)
    large = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    large.save(file, form)
    return file.getvalue()


def choose(
    page: Page, data: bytes, name: str = "photo.png", kind: str = "image/png"
) -> None:
    file = {"name": name, "mimeType": kind, "buffer": data}
    page.locator("#file").set_input_files(file)


def choose_several(page: Page, pictures: dict[str, bytes]) -> None:
    files = []
    for name, data in pictures.items():
        files.append({"name": name, "mimeType": "image/png", "buffer": data})
    page.locator("#file").set_input_files(files)  # type: ignore[arg-type]


def event(page: Page, kind: str, data: bytes, name: str = "photo.png") -> None:
    """Drop a file on the document, or paste it, as the browser would."""
    page.evaluate(
        """([kind, data, name]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            const init = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(kind === "paste"
                ? new ClipboardEvent("paste", { ...init, clipboardData: transfer })
                : new DragEvent(kind, { ...init, dataTransfer: transfer }));
        }""",
        [kind, base64.b64encode(data).decode(), name],
    )


def answered(page: Page, answers: int = 1) -> list[str]:
    """Return the names in the bars, once there are so many answers in the history."""
    expect(page.locator("#history li")).to_have_count(answers)
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#error")).to_be_hidden()
    return page.locator("#bars li span:first-child").all_inner_texts()


def test_a_chosen_picture_is_answered_with_bars(page: Page) -> None:
    choose(page, picture())
    names = answered(page)
    # The best five of six classes.
    assert len(set(names)) == 5
    values = page.locator("#bars .value").all_inner_texts()
    shares = [float(text.removesuffix(" %")) for text in values]
    assert shares == sorted(shares, reverse=True)
    # The bars grow for a moment.
    page.wait_for_timeout(500)
    drawn = page.locator("#bars .bar").evaluate_all(
        """bars => bars.map((bar) => {
            const inner = getComputedStyle(bar, '::before');
            return 100 * parseFloat(inner.width) / bar.clientWidth;
        })"""
    )
    assert drawn == pytest.approx(shares, abs=0.6)
    expect(page.get_by_role("status")).to_contain_text(f"{names[0]}, ")
    # The name is text, and no markup.
    expect(page.locator("#model")).to_contain_text("tiny <b>")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page: Page, kind: str) -> None:
    choose(page, picture())
    expected = answered(page)
    if kind == "drop":
        event(page, "dragover", picture())
        expect(page.locator("body")).to_have_class("over")
    event(page, kind, picture())
    assert answered(page, 2) == expected
    expect(page.locator("body")).not_to_have_class("over")


def test_a_file_that_is_no_picture_gets_one_sentence_and_a_broken_one_another(
    page: Page,
) -> None:
    choose(page, b"<html>not an image</html>" * 9, "page.html", "text/html")
    expect(page.get_by_role("alert")).to_contain_text("not an image in a known format")
    # Another try would not help.
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    choose(page, picture(form="JPEG")[:-900], "half.jpg", "image/jpeg")
    expect(page.get_by_role("alert")).to_contain_text("cut short")
    choose(page, picture())
    answered(page)


def test_a_huge_file_is_refused_before_it_is_sent(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    choose(page, bytes(2**20 + 1), "huge.png")
    expect(page.get_by_role("alert")).to_contain_text("too large: at most 1 MiB")
    assert "POST" not in sent


def test_a_server_that_is_gone_is_said_and_asked_again(page: Page, site: Any) -> None:
    choose(page, picture())
    answered(page)
    page.route("**/predict*", lambda route: route.abort("connectionrefused"))
    choose(page, picture(seed=1))
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.unroute("**/predict*")
    page.get_by_role("button", name="Try again").click()
    answered(page, 2)
    site.stop()
    choose(page, picture(seed=2))
    expect(page.get_by_role("alert")).to_contain_text("does not answer")


def test_several_pictures_are_all_answered(page: Page) -> None:
    names = [f"{number}.png" for number in range(5)]
    choose_several(page, {name: picture(seed=k) for k, name in enumerate(names)})
    answered(page, 5)
    # The newest comes first.
    titles = page.locator("#history button").evaluate_all(
        "all => all.map(b => b.title)"
    )
    assert titles == names[::-1]
    expect(page.locator("#dropped")).to_be_hidden()


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (2, r"^cat \(90\.0 %\), dog \(80\.0 %\)\. \d+ ms\.$"),
        (0, r"^no label, at best .+ \(.+ %\)\. \d+ ms\.$"),
    ],
)
def test_a_picture_of_several_labels_has_all_or_none(
    page: Page, count: int, sentence: str
) -> None:
    labels = [
        {"label": 0, "name": "cat", "score": 0.9},
        {"label": 1, "name": "dog", "score": 0.8},
    ]

    def with_labels(route: Route) -> None:
        response = route.fetch()
        answer = response.json()
        answer["predictions"][0]["labels"] = labels[:count]
        route.fulfill(response=response, json=answer)

    page.route("**/predict*", with_labels)
    choose(page, picture())
    assert len(answered(page)) == 5
    expect(page.locator("#status")).to_have_text(re.compile(sentence))


def test_of_several_pictures_each_bad_one_is_named(page: Page) -> None:
    choose_several(page, {"a.png": picture(), "b.png": b"no", "c.png": picture(seed=1)})
    expect(page.locator("#history li")).to_have_count(2)
    error = page.get_by_role("alert")
    expect(error).to_contain_text("No answer to 1 of 3 pictures.")
    expect(error).to_contain_text("b.png: ")
    # The answer to the last one stays.
    assert page.locator("#bars li").count() == 5
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")


def test_what_the_history_has_no_room_for_is_said(page: Page) -> None:
    data = picture(side=16)
    choose_several(page, {f"{number}.png": data for number in range(63)})
    expect(page.locator("#history li")).to_have_count(60)
    expect(page.locator("#dropped")).to_contain_text("newest 60 are kept, 3 older left")


# Share of the pixels of the shown picture that are gray.
GRAY = """async (image) => {
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    let gray = 0;
    for (let k = 0; k < data.length; k += 4) {
        gray += data[k] === data[k + 1] && data[k] === data[k + 2];
    }
    return [image.naturalWidth, image.naturalHeight, gray / (data.length / 4)];
}"""


def test_the_explanation_lies_over_the_whole_picture(page: Page) -> None:
    """It has the picture's shape and colours, not the network's 32 x 32 gray pixels."""
    choose(page, picture(side=400))
    answered(page)
    shown = page.locator("#picture")
    before = shown.get_attribute("src")
    page.get_by_role("switch").check()
    expect(shown).not_to_have_attribute("src", before or "")
    width, height, gray = shown.evaluate(GRAY)
    assert (width, height) == (400, 300)
    assert gray < 0.2


def test_the_explanation_takes_the_place_of_the_picture(page: Page) -> None:
    choose(page, picture())
    answered(page)
    before = page.locator("#picture").get_attribute("src")
    page.get_by_role("switch").check()
    shown = page.locator("#picture")
    expect(shown).to_have_attribute("src", re.compile("^data:image/png"))
    expect(shown).not_to_have_attribute("src", before or "")
    explained = shown.get_attribute("src")
    # The next one is explained at once.
    choose(page, picture(seed=1))
    answered(page, 2)
    expect(shown).not_to_have_attribute("src", explained or "")
    page.get_by_role("switch").uncheck()
    page.locator("#history button").nth(1).click()
    expect(shown).to_have_attribute("src", before or "")


def test_the_history_is_this_tabs_and_outlives_a_reload(page: Page) -> None:
    choose(page, picture(seed=0), "first.png")
    first = answered(page)
    choose(page, picture(seed=3), "second.png")
    answered(page, 2)
    page.reload()
    expect(page.locator("#history li")).to_have_count(2)
    page.get_by_title("first.png").click()
    assert page.locator("#bars li span:first-child").all_inner_texts() == first
    expect(page.get_by_title("first.png")).to_have_attribute("aria-current", "true")
    page.get_by_role("switch").check()
    expect(page.get_by_role("alert")).to_contain_text("Choose it again")
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("#history li")).to_have_count(0)


def test_the_weight_pictures_come_when_they_are_wanted(page: Page) -> None:
    assert page.locator("#token_units").get_attribute("src") is None
    page.get_by_text("What the network has learned").click()
    for name in ("token_units", "embeddings"):
        figure = page.locator(f"#{name}")
        expect(figure).to_have_attribute("src", f"figures/{name}.png")
        width = "async (image) => (await image.decode(), image.naturalWidth)"
        assert figure.evaluate(width) > 50


@pytest.mark.parametrize("page", ["dark"], indirect=True)
def test_the_weight_pictures_of_a_dark_page_are_dark(page: Page) -> None:
    page.get_by_text("What the network has learned").click()
    figure = page.locator("#token_units")
    expect(figure).to_have_attribute("src", "figures/token_units.png?dark=true")
    # Somebody who changes the colours of the system sees it at once.
    page.emulate_media(color_scheme="light")
    expect(figure).to_have_attribute("src", "figures/token_units.png")


def test_the_keyboard_alone_will_do(
    page: Page, opens_the_dialogue: Callable[[Page, str], bool]
) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    style = "getComputedStyle(document.getElementById('stage')).outlineStyle"
    # One can see where one is.
    assert page.evaluate(style) == "solid"
    assert opens_the_dialogue(page, "Space")
    file: Any = {"name": "a.png", "mimeType": "image/png", "buffer": picture()}
    page.locator("#file").set_input_files(file)
    answered(page)
    reached = set()
    active = "document.activeElement.id || document.activeElement.tagName"
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(active))
    assert reached >= {"explain", "BUTTON", "SUMMARY", "A"}


# The contrast of each text with what is behind it, as WCAG 2 defines it.
CONTRASTS = """() => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const luminance = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const background = (e) => {
        for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
    };
    const texts = "h1, h2, p, li span, label span, summary, a, strong, button";
    const found = [];
    for (const e of document.querySelectorAll(texts)) {
        if (!e.textContent.trim() || !e.offsetParent) continue;
        const one = luminance(getComputedStyle(e).color);
        const other = luminance(background(e));
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        found.push([contrast, e.outerHTML.slice(0, 60)]);
    }
    return found;
}"""


@pytest.mark.parametrize("page", ["dark"], indirect=True)
def test_the_dark_page_can_be_read_and_a_narrow_one_does_not_scroll_sideways(
    page: Page,
) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    choose(page, picture())
    answered(page)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 15
    assert [row for row in contrasts if row[0] < 4.5] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
