"""A server of a tiny model in a thread, and a real Chromium in front of it:
Playwright's own, or the system's.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from mlp_mixer.inference.predictor import Predictor
from mlp_mixer.models import create_model
from mlp_mixer.serve import Limits, create_app, listen, server
from mlp_mixer.weights import Checkpoint
from mlp_mixer.weights.lineages.transforms import eval_preprocess

LABELS = ("cat", "dog", "horse", "ship", "truck", "frog")


class Site:
    """The server and where it is."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        model = create_model("mixer_nano4", num_classes=len(LABELS)).eval()
        torch.nn.init.normal_(model.head.weight, std=2)
        checkpoint = Checkpoint(
            model,
            eval_preprocess("paper", model.config.image_size, 3),
            LABELS,
            {"name": "tiny <b>"},
        )
        limits = Limits(max_bytes=2**20, seconds=10)
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
        """And wait until it has."""
        self.server.should_exit = True
        self._thread.join()
        self.listener.close()


@pytest.fixture
def site() -> Iterator[Site]:
    running = Site()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)  # milliseconds: the machine may be busy
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = (
            own
            if Path(own).exists()
            else shutil.which("chromium") or shutil.which("google-chrome")
        )
        assert path, (
            "no Chromium: run `playwright install --with-deps chromium`, or `apt-get install chromium`"
        )
        with playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        ) as browser:
            yield browser


@pytest.fixture
def page(
    chromium: Browser, site: Site, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """The page, loaded; a test fails if it asks anything of another host, or breaks its
    own content policy.
    """
    context = chromium.new_context(color_scheme=getattr(request, "param", "light"))
    page = context.new_page()
    wrong = list[str]()
    page.on(
        "request",
        lambda r: (
            None
            if r.url.startswith((site.url, "data:", "blob:"))
            else wrong.append(r.url)
        ),
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda said: (
            wrong.append(said.text) if "Content Security Policy" in said.text else None
        ),
    )
    page.goto(site.url)
    page.get_by_text("6 classes").wait_for()
    yield page
    if folder := os.environ.get("MLP_MIXER_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{request.node.name}.png", full_page=True)
    context.close()
    assert not wrong
