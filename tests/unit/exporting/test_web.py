"""`export --to web`: where its runtime comes from, what the page holds, what is refused.

The runtime is a stand-in of a few bytes here; tests/browser/test_web_export.py has the
real one in a real browser.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mlp_mixer import MixerConfig, Preprocess, UserError, save
from mlp_mixer.exporting import export
from mlp_mixer.exporting.web import find_runtime, page, runtime
from mlp_mixer.exporting.web.runtime import NAME, VERSION, Pin
from mlp_mixer.models import build_network

for _package in ("onnx", "onnxruntime"):
    pytest.importorskip(_package)

SCRIPT = b"var a={},b={},c=import.meta.url;export{a as InferenceSession,c as Tensor,b as env};"
WASM = b"\0asm stands here"
CONFIG = MixerConfig(4, 1, 16, 8, 32, image_size=(8, 12), num_classes=3, gelu="erf")
LABELS = ["</script><b>cat", "dog", "Vögel & \u2028"]


def archive(script: bytes = SCRIPT, wasm: bytes = WASM) -> bytes:
    """The npm package with these files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for pin, data in ((runtime.SCRIPT, script), (runtime.WASM, wasm)):
            member = tarfile.TarInfo(f"package/{pin.name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def pinned(name: str, data: bytes) -> Pin:
    return Pin(name, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The archive that is pinned in these tests; the home and the cache are empty."""
    data = archive()
    monkeypatch.setattr(runtime, "SCRIPT", pinned(runtime.SCRIPT.name, SCRIPT))
    monkeypatch.setattr(runtime, "WASM", pinned(runtime.WASM.name, WASM))
    monkeypatch.setattr(runtime, "ARCHIVE", pinned(runtime.ARCHIVE.name, data))
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (
        "npm_config_registry",
        "NPM_CONFIG_REGISTRY",
        "NPM_CONFIG_USERCONFIG",
        "MLP_MIXER_OFFLINE",
        "HF_HUB_OFFLINE",
    ):
        monkeypatch.delenv(name, raising=False)
    return data


class Registry:
    """A server that has one file, and the paths that were asked for."""

    def __init__(self, data: bytes) -> None:
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.asked = asked
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/npm/"
        threading.Thread(target=self.server.serve_forever).start()

    def stop(self) -> None:
        """Stop the server."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def registry(
    package: bytes, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """npm's registry, with the package or with what the test gives."""
    running = Registry(getattr(request, "param", package))
    monkeypatch.setenv("npm_config_registry", running.url)
    yield running
    running.stop()


@pytest.fixture
def given(package: bytes, tmp_path: Path) -> Path:
    """The archive as a file, for those who are offline."""
    path = tmp_path / "given.tgz"
    path.write_bytes(package)
    return path


def test_the_registry_is_the_one_that_npm_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime.registry() == "https://registry.npmjs.org"
    lines = (
        "; a note\n@some:registry=https://other.test\n registry = 'https://a.test/x/'"
    )
    (tmp_path / ".npmrc").write_text(lines)
    assert runtime.registry() == "https://a.test/x/"
    (tmp_path / "rc").write_text("registry=https://b.test")
    monkeypatch.setenv("NPM_CONFIG_USERCONFIG", str(tmp_path / "rc"))
    assert runtime.registry() == "https://b.test"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://c.test")
    assert runtime.registry() == "https://c.test"
    monkeypatch.setenv("npm_config_registry", "https://d.test")
    assert runtime.registry() == "https://d.test"


def test_it_is_downloaded_once(tmp_path: Path, registry: Registry) -> None:
    assert find_runtime() == (SCRIPT, WASM)
    assert registry.asked == [f"/npm/{NAME}/-/{NAME}-{VERSION}.tgz"]
    assert find_runtime() == (SCRIPT, WASM)
    assert len(registry.asked) == 1
    # What is in the cache is not trusted.
    place = tmp_path / "cache" / NAME / VERSION
    (place / runtime.WASM.name).write_bytes(b"damaged")
    assert find_runtime() == (SCRIPT, WASM)
    assert len(registry.asked) == 2
    assert not list(place.glob("*.tgz"))


@pytest.mark.parametrize(
    "registry", [pytest.param(archive(wasm=b"another"), id="another")], indirect=True
)
def test_another_archive_is_refused(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(UserError, match=r"expected \d+: .*; or give the archive"):
        find_runtime()
    assert registry.asked
    assert not list((tmp_path / "cache").rglob("*.*js"))


def test_without_a_network_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLP_MIXER_OFFLINE", "1")
    said = (
        f"unset MLP_MIXER_OFFLINE, or give .*npm pack {NAME}@{VERSION}` brings, by --"
    )
    with pytest.raises(UserError, match=said):
        find_runtime()


@pytest.mark.parametrize("inside", ["", "package", f"node_modules/{NAME}"])
def test_a_folder_is_given(inside: str, tmp_path: Path) -> None:
    for pin, data in ((runtime.SCRIPT, SCRIPT), (runtime.WASM, WASM)):
        path = tmp_path / "mine" / inside / pin.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert find_runtime(tmp_path / "mine") == (SCRIPT, WASM)
    path.write_bytes(b"of another version")
    with pytest.raises(UserError, match=f"threaded.wasm' is not {NAME} {VERSION}"):
        find_runtime(tmp_path / "mine")


def test_an_archive_is_given(given: Path) -> None:
    assert find_runtime(given) == (SCRIPT, WASM)
    for data in (archive(script=b"x"), b"no archive", b"", given.read_bytes()[:-40]):
        given.write_bytes(data)
        with pytest.raises(UserError, match=f"given.tgz' is not {NAME} {VERSION}"):
            find_runtime(given)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="there is no .*nowhere.*: expected the archive"
    ):
        find_runtime(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no onnxruntime-web in .*empty'"):
        find_runtime(tmp_path / "empty")


def saved(path: Path, config: Any = CONFIG, **what: Any) -> Path:
    """A checkpoint with random weights."""
    model = build_network(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    record = Preprocess(config.image_size, config.in_channels)
    return save(path, model, **{"preprocess": record, **what})


def test_the_page_holds_everything_and_asks_for_nothing(
    tmp_path: Path, given: Path
) -> None:
    source = saved(tmp_path / "m.safetensors", labels=LABELS)
    out = tmp_path / "site"
    report = export(source, out, "web", runtime=given)
    ours, theirs = report["rows"]
    assert theirs["difference"] < 1e-5
    assert ours["same_top1"] == theirs["same_top1"] == 1
    assert sorted(path.name for path in out.iterdir()) == ["LICENSES.txt", "index.html"]
    text = (out / "index.html").read_text(encoding="utf-8")

    # The policy allows this script and this style, and no connection.
    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', text)
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; ")
    assert "connect-src" not in policy
    assert "unsafe-inline" not in policy
    for kind, of in (("script", '<script type="module">'), ("style", "<style>")):
        held = text.partition(of)[2].partition(f"</{kind}>")[0]
        digest = base64.b64encode(hashlib.sha256(held.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert re.findall(r'\s(?:src|href)="([^"]*)"', text) == ["data:,"]

    # Names cannot leave the place where they are data.
    (about,) = re.findall('id="about">([^<]*)</script>', text)
    assert json.loads(about)["labels"] == LABELS
    assert "<b>cat" not in text
    assert "&lt;b&gt;cat" in text
    # The runtime became a script, and our files know its inner names.
    assert "c=self.location.href;" in text
    assert "export{" not in text
    assert "const ort = { InferenceSession: a, Tensor: c, env: b };" in text

    export(source, tmp_path / "again", "web", runtime=given)
    assert (tmp_path / "again" / "index.html").read_text(encoding="utf-8") == text


def test_int8_makes_the_page_smaller(tmp_path: Path, given: Path) -> None:
    config = MixerConfig(4, 1, 64, 32, 256, image_size=(8, 8), num_classes=3)
    source = saved(tmp_path / "m.safetensors", config)
    pages = []
    for int8 in (False, True):
        report = export(source, tmp_path / str(int8), "web", int8=int8, runtime=given)
        pages.append(report["rows"][1]["mib"])
    assert pages[1] < 0.8 * pages[0]
    text = (tmp_path / "True" / "index.html").read_text(encoding="utf-8")
    about = json.loads(re.findall('id="about">([^<]*)</script>', text)[0])
    assert about["int8"] is True
    # A checkpoint without names has numbers, as in `predict`.
    assert about["labels"] == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_classes": 0}, "has no classifier and cannot name classes in a page"),
        ({"in_channels": 5}, "of 5 channels, and a browser opens those of 1 or 3"),
        ({"in_channels": 2}, "of 2 channels, and a browser opens those of 1 or 3"),
    ],
)
def test_what_no_page_can_do_is_refused(
    change: dict[str, int], sentence: str, tmp_path: Path, given: Path
) -> None:
    config = MixerConfig(4, 1, 16, 8, 32, **{"image_size": (8, 8), **change})  # type: ignore[arg-type]
    source = saved(tmp_path / "m.safetensors", config)
    with pytest.raises(UserError, match=sentence):
        export(source, tmp_path / "site", "web", runtime=given)
    assert not (tmp_path / "site").exists()


def test_a_page_that_no_browser_opens_is_refused(
    tmp_path: Path, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_MOST_BYTES", 2**12)
    source = saved(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="MiB, and browsers open some .* use --int8"):
        export(source, tmp_path / "site", "web", runtime=given)
    assert not (tmp_path / "site").exists()


def test_options_of_others_are_refused(tmp_path: Path, given: Path) -> None:
    source = saved(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="onnx has no --runtime; that is of web"):
        export(source, tmp_path / "m.onnx", "onnx", runtime=given)
    with pytest.raises(UserError, match="web takes prepared images only"):
        export(source, tmp_path / "site", "web", runtime=given, preprocess="inside")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.html").write_text("mine")
    with pytest.raises(UserError, match="site' exists; choose another name"):
        export(source, tmp_path / "site", "web", runtime=given)
