"""The page of `mlp-mixer export --to web` in a real Chromium, opened as a file."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from mlp_mixer import MixerConfig, Preprocess, UserError, save
from mlp_mixer.exporting import export
from mlp_mixer.exporting.web import find_runtime
from mlp_mixer.inference import Predictor
from mlp_mixer.models import build_network

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

LABELS = ["cat", "dog, wet", 'so-called "bird"', "<i>horse</i>", "ship", "Frösche", "x"]


@dataclass
class Site:
    """An exported page, opened; and what answers the same in Python."""

    page: Page
    predictor: Predictor
    wrong: list[str]

    def give(self, pictures: dict[str, bytes]) -> None:
        """Choose files, and wait until all are answered or refused."""
        files: Any = []
        for name, data in pictures.items():
            files.append({"name": name, "mimeType": "", "buffer": data})
        before = self.page.locator("#answers > li").count()
        self.page.locator("#file").set_input_files(files)
        cards = self.page.locator("#answers > li:not(.waiting)")
        expect(cards).to_have_count(before + len(pictures))

    def rows(self) -> list[dict[str, str]]:
        """The answers as the page saves them."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name="Save the answers").click()
        text = Path(download.value.path()).read_text(encoding="utf-8")
        return list(csv.DictReader(io.StringIO(text)))

    def cleared(self) -> None:
        """Remove all pictures."""
        if self.page.locator("#answers > li").count():
            self.page.get_by_role("button", name="Remove all").click()
        expect(self.page.locator("#answers > li")).to_have_count(0)


@pytest.fixture(scope="module")
def offline_runtime() -> None:
    """Skip where onnxruntime-web is neither in the cache nor to be had."""
    with pytest.MonkeyPatch.context() as patch:
        # A test does not download 32 MiB; `make browser` does.
        patch.setenv("MLP_MIXER_OFFLINE", "1")
        try:
            find_runtime()
        except UserError as error:
            pytest.skip(str(error))


def opened(
    chromium: Browser,
    folder: Path,
    record: Preprocess,
    scheme: Any = "light",
    **what: Any,
) -> Site:
    """Export a small network, and open its page in a window of a phone's size."""
    torch.manual_seed(5)
    labels = what.get("labels", LABELS)
    config = MixerConfig(
        8, 1, 32, 16, 48,
        image_size=record.image_size,
        in_channels=record.channels,
        num_classes=len(labels),
        gelu="erf",
    )  # fmt: skip
    model = build_network(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    source = folder / "m.safetensors"
    save(source, model, preprocess=record, **{"labels": labels, **what})
    export(source, folder / "site", "web")
    context = chromium.new_context(
        color_scheme=scheme, viewport={"width": 390, "height": 800}
    )
    page = context.new_page()
    page.set_default_timeout(120_000)
    wrong: list[str] = []

    def on_request(sent: Request) -> None:
        if not sent.url.startswith(("file:", "data:", "blob:null/")):
            wrong.append(sent.url)

    def on_console(said: ConsoleMessage) -> None:
        wrong.append(said.text)

    page.on("request", on_request)
    page.on("console", on_console)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((folder / "site" / "index.html").as_uri())
    page.locator("html[data-ready]").wait_for()
    return Site(page, Predictor(source, engine="torch"), wrong)


@pytest.fixture(scope="module")
def colour(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory, offline_runtime: None
) -> Iterator[Site]:
    """A network for pictures that are not square, on a dark page."""
    record = Preprocess((24, 40), mean=(0.1, 0.4, 0.7), std=(0.2, 0.5, 0.9))
    chosen = {"score": 0.6, "accuracy": 0.95, "coverage": 0.7, "n": 300}
    what = {"provenance": {"name": "small <net>", "min_score": chosen}}
    folder = tmp_path_factory.mktemp("colour")
    made = opened(chromium, folder, record, "dark", **what)
    yield made
    made.page.context.close()
    assert not made.wrong


@pytest.fixture
def site(colour: Site) -> Site:
    """The page without pictures."""
    colour.cleared()
    return colour


def picture(seed: int = 0, width: int = 150, height: int = 110) -> Image.Image:
    """Soft noise, which compresses."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def held(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


def see_through(seed: int) -> Image.Image:
    image = picture(seed)
    size = (image.height, image.width)
    alpha = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    image.putalpha(Image.fromarray(alpha))
    return image


def deep(seed: int) -> Image.Image:
    """16 bits, of which the lower eight alone would be noise."""
    noise = np.random.default_rng(seed).integers(-128, 128, (110, 150))
    values = 257 * np.asarray(picture(seed).convert("L"), dtype=int) + noise
    return Image.fromarray(values.clip(0, 65535).astype(np.uint16))


def many() -> dict[str, bytes]:
    """Pictures of many kinds."""
    profile = {"icc_profile": swapped_profile(), "quality": 90}
    made = {
        "plain.png": encoded(picture(0)),
        "photo.jpg": encoded(picture(1), "JPEG", quality=85),
        "gray.jpg": encoded(picture(2).convert("L"), "JPEG"),
        "palette.gif": encoded(picture(3).convert("P"), "GIF"),
        "lossy.webp": encoded(picture(4), "WEBP", quality=70),
        "profile.jpg": encoded(picture(5), "JPEG", **profile),
        "alpha.png": encoded(see_through(6)),
        "alpha.webp": encoded(see_through(7), "WEBP", lossless=True),
        "hole.png": encoded(picture(8).quantize(16), transparency=3),
        "deep.png": encoded(deep(13)),
        "deep turned.png": encoded(deep(14), exif=held(6)),
        "tall.png": encoded(picture(9, 30, 400)),
        "wide.png": encoded(picture(10, 2000, 20)),
        "tiny.png": encoded(picture(11, 3, 2)),
        "large.jpg": encoded(picture(12, 2400, 1900), "JPEG"),
    }
    for turn in range(2, 9):
        form = ("JPEG", "PNG", "WEBP")[turn % 3]
        how = {"lossless": True} if form == "WEBP" else {}
        made[f"turned {turn}.{form}"] = encoded(
            picture(turn), form, exif=held(turn), **how
        )
    return made


def swapped_profile() -> bytes:
    """sRGB with red and green exchanged: whoever obeys it sees other colours."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    data = bytearray(profile.tobytes())
    red = data.index(b"rXYZ")
    green = data.index(b"gXYZ")
    data[red : red + 4] = b"gXYZ"
    data[green : green + 4] = b"rXYZ"
    return bytes(data)


def agree(site: Site, pictures: dict[str, bytes]) -> None:
    """Page and `predict` give the same answers, and the same scores to 1e-5."""
    rows = site.rows()
    assert [row["path"] for row in rows] == list(pictures)
    for row, (name, data) in zip(rows, pictures.items(), strict=True):
        ours = site.predictor(Image.open(io.BytesIO(data)))
        assert row["pred_class"] == ours.pred_class, name
        for rank, candidate in enumerate(ours.top, 1):
            score = float(row[f"top{rank}_score"])
            assert score == pytest.approx(candidate.score, abs=1e-5), name
        if ours.labels is not None:
            assert row["labels"] == ";".join(one.name for one in ours.labels)


def test_it_answers_as_predict(site: Site) -> None:
    pictures = many()
    site.give(pictures)
    agree(site, pictures)
    said = site.page.locator("#status").inner_text()
    assert said.startswith(f"{len(pictures)} of {len(pictures)} pictures answered in ")


def test_one_channel_and_several_labels(
    chromium: Browser, tmp_path: Path, offline_runtime: None
) -> None:
    """Colours become gray, and every class has its own threshold."""
    record = Preprocess((16, 16), 1, resize="resize", interpolation="bilinear")
    thresholds = [0.2, 0.9, 0.5, 0.4, 0.6, 0.3, 0.7]
    what = {"provenance": {"head": "sigmoid", "thresholds": thresholds}}
    site = opened(chromium, tmp_path, record, **what)
    pictures = dict(list(many().items())[:8])
    site.give(pictures)
    agree(site, pictures)
    expect(site.page.locator("#limit")).to_be_hidden()
    site.page.context.close()
    assert not site.wrong


def test_one_class_and_another_resampler(
    chromium: Browser, tmp_path: Path, offline_runtime: None
) -> None:
    """A single class is a yes or no; values stay floats between pixels and network."""
    record = Preprocess((16, 24), interpolation="bilinear", resampler="vit_jax")
    site = opened(chromium, tmp_path, record, labels=["scratch"])
    pictures = dict(list(many().items())[:8])
    site.give(pictures)
    agree(site, pictures)
    expect(site.page.get_by_text("1 class", exact=False).first).to_be_visible()
    site.page.context.close()
    assert not site.wrong


def test_what_is_no_picture_is_said(site: Site) -> None:
    cut = encoded(picture())[:-200]
    site.give({"a.png": encoded(picture()), "note.txt": b"no picture", "cut.png": cut})
    refused = site.page.locator(".refused")
    expect(refused).to_have_count(2)
    expect(refused.first).to_contain_text("This file cannot be shown: it is damaged")
    expect(site.page.locator("#status")).to_contain_text("1 of 3 pictures answered")
    errors = [bool(row["error"]) for row in site.rows()]
    assert errors == [False, True, True]


def event(page: Page, kind: str, data: bytes) -> None:
    """Drop a file on the document, or paste it, as the browser would."""
    page.evaluate(
        """([kind, data]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "given.png", { type: "image/png" }));
            const init = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(kind === "paste"
                ? new ClipboardEvent("paste", { ...init, clipboardData: transfer })
                : new DragEvent(kind, { ...init, dataTransfer: transfer }));
        }""",
        [kind, base64.b64encode(data).decode()],
    )


def test_pictures_are_dropped_and_pasted(site: Site) -> None:
    for count, kind in enumerate(("drop", "paste"), 1):
        event(site.page, kind, encoded(picture(count)))
        answered = site.page.locator("#answers > li:not(.waiting)")
        expect(answered).to_have_count(count)
        # Told to those who do not see it.
        status = site.page.get_by_role("status")
        expect(status).to_contain_text("given.png: ")


def test_the_camera_takes_a_photo(site: Site) -> None:
    page = site.page
    page.get_by_role("button", name="Take a photo").click()
    viewfinder = page.get_by_role("dialog", name="Camera")
    expect(viewfinder).to_be_visible()
    playing = "() => document.getElementById('video').videoWidth"
    while not page.evaluate(playing):
        page.wait_for_timeout(50)
    viewfinder.get_by_role("button", name="Take the photo").click()
    expect(viewfinder).to_be_hidden()
    expect(page.locator("#answers > li:not(.waiting)")).to_have_count(1)
    # The light of the camera goes out.
    assert page.evaluate("() => document.getElementById('video').srcObject") is None


def test_below_a_lowest_score_the_answer_is_unknown(site: Site) -> None:
    site.give({"a.png": encoded(picture(1))})
    page = site.page
    head = page.locator("#answers h2")
    best = head.inner_text()
    page.get_by_label("Say “unknown” below").fill("100")
    expect(head).to_have_text(f"unknown; at best {best.removeprefix('Not sure: ')}")
    (row,) = site.rows()
    assert (row["pred_label"], row["pred_class"]) == ("", "unknown")
    # What training chose is offered.
    page.get_by_role("button", name="Use 60.0 %").click()
    expect(page.get_by_label("Say “unknown” below")).to_have_value("60")
    page.get_by_label("Say “unknown” below").fill("")
    expect(head).to_have_text(best)


def test_the_keyboard_alone_will_do(
    site: Site, opens_the_dialogue: Callable[[Page, str], bool]
) -> None:
    page = site.page
    page.locator("#file").focus()
    style = "getComputedStyle(document.getElementById('stage')).outlineStyle"
    assert page.evaluate(style) == "solid"
    assert opens_the_dialogue(page, "Space")
    file: Any = {"name": "a.png", "mimeType": "image/png", "buffer": encoded(picture())}
    page.locator("#file").set_input_files([file, {**file, "name": "b.png"}])
    expect(page.locator("#answers > li:not(.waiting)")).to_have_count(2)
    names = []
    for _ in range(8):
        page.keyboard.press("Tab")
        active = "document.activeElement"
        name = f"{active}.ariaLabel || {active}.id || {active}.textContent"
        names.append(page.evaluate(name))
    assert "Remove b.png" in names
    assert {"save", "clear", "least"} <= set(names)
    page.get_by_role("button", name="Remove b.png").press("Enter")
    # Focus goes to the next card, and then back to the beginning.
    assert page.evaluate("document.activeElement.ariaLabel") == "Remove a.png"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "file"


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
    const found = [];
    for (const e of document.querySelectorAll("h1, h2, p, li span, label, button")) {
        if (!e.textContent.trim() || !e.offsetParent) continue;
        const one = luminance(getComputedStyle(e).color);
        const other = luminance(background(e));
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        found.push([contrast, e.outerHTML.slice(0, 60)]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_can_be_read_and_does_not_scroll_sideways(site: Site, scheme: Any) -> None:
    site.page.emulate_media(color_scheme=scheme)
    site.give({"a-very-long-name-without-any-blank" * 3: encoded(picture())})
    site.page.wait_for_timeout(400)
    contrasts = site.page.evaluate(CONTRASTS)
    assert len(contrasts) > 15
    assert [row for row in contrasts if row[0] < 4.5] == []
    assert site.page.evaluate("document.documentElement.scrollWidth") <= 390
