"""A server of a tiny model in a thread, and a real Chromium in front of it."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import uvicorn
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from mlp_mixer.inference import Predictor
from mlp_mixer.models import create_model
from mlp_mixer.serve import Limits, create_app, listen, server
from mlp_mixer.weights import Checkpoint
from mlp_mixer.weights.lineages.transforms import eval_preprocess

PATIENCE = 120_000
"""Milliseconds: the machine may be busy."""
LABELS = ("cat", "dog", "horse", "ship", "truck", "frog")


class Site:
    """A server, and its address."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        model = create_model("mixer_nano4", num_classes=len(LABELS)).eval()
        torch.nn.init.normal_(model.head.weight, std=2)
        preprocess = eval_preprocess("paper", model.config.image_size, 3)
        checkpoint = Checkpoint(model, preprocess, LABELS, {"name": "tiny <b>"})
        limits = Limits(max_bytes=2**20, seconds=60)
        app = create_app(Predictor(checkpoint, engine="torch"), limits)
        self.listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.server: uvicorn.Server = server(app, limits)
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listener]}
        )
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the server, and wait for its end."""
        self.server.should_exit = True
        self._thread.join()
        self.listener.close()


@pytest.fixture
def opens_the_dialogue() -> Callable[[Page, str], bool]:
    """Whether a key opens the choice of files, when the focus is where it is now.

    A click of the input opens it. The click is taken away here: the window of a
    dialogue opens only within five seconds of the key, which a busy machine may miss.
    """

    def opens(page: Page, key: str) -> bool:
        page.evaluate(
            """() => {
                window.clicks = 0;
                document.getElementById("file").onclick = (event) => {
                    event.preventDefault();
                    window.clicks += 1;
                };
            }"""
        )
        page.keyboard.press(key)
        clicks = page.evaluate("window.clicks")
        page.evaluate("document.getElementById('file').onclick = null")
        return clicks == 1

    return opens


@pytest.fixture
def site() -> Iterator[Site]:
    running = Site()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Playwright's own Chromium, or the system's."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        path: str | None = playwright.chromium.executable_path
        if not Path(path or "").exists():
            path = shutil.which("chromium") or shutil.which("google-chrome")
        assert path, (
            "no Chromium: run `playwright install --with-deps chromium`, or "
            "`apt-get install chromium`"
        )
        # A film of Chromium's own in the place of a camera, and nobody is asked.
        film = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        options = {"executable_path": path, "args": ["--no-sandbox", *film]}
        with playwright.chromium.launch(**options) as browser:
            yield browser


@pytest.fixture
def page(
    chromium: Browser, site: Site, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """The page, loaded.

    A test fails if the page asks anything of another host, raises an error, or breaks
    its own content policy.
    """
    context = chromium.new_context(color_scheme=getattr(request, "param", "light"))
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []

    def on_request(sent: Request) -> None:
        if not sent.url.startswith((site.url, "data:", "blob:")):
            wrong.append(sent.url)

    def on_console(said: ConsoleMessage) -> None:
        if "Content Security Policy" in said.text:
            wrong.append(said.text)

    page.on("request", on_request)
    page.on("console", on_console)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(site.url)
    page.get_by_text("6 classes").wait_for()
    yield page
    if folder := os.environ.get("MLP_MIXER_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{request.node.name}.png", full_page=True)
    context.close()
    assert not wrong
