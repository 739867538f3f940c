"""Names, addresses and paths: where the file of a checkpoint is found."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import mlp_mixer
from mlp_mixer import UserError, inference_model, load
from mlp_mixer.models import VARIANTS
from mlp_mixer.weights import catalog

from .published import ALIAS, DEMO, NAME, TINY, published_bytes, put


@pytest.mark.parametrize(
    "name",
    ["a" * 5000, "a\0b", "\ud800", "~nobody/x", "http:", "C:\\x", "\n"],
    ids=lambda name: repr(name[:9]),
)
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(UserError):
        load(name)


def test_the_documented_line_runs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the published kind, size and names, with random weights, answers."""
    record = catalog.find(ALIAS)
    assert record is not None
    put(record, published_bytes(VARIANTS["mixer_b16"], "mmpretrain", ".pth"))
    monkeypatch.chdir(DEMO.parent)
    monkeypatch.setenv("MLP_MIXER_OFFLINE", "1")
    answer = inference_model(
        "mlp-mixer-base-p16_3rdparty_64xb64_in1k", "demo/bird.JPEG"
    )
    assert set(answer) == {"pred_scores", "pred_label", "pred_score", "pred_class"}
    assert answer["pred_scores"].shape == (1000,)
    assert answer["pred_scores"].sum() == pytest.approx(1, abs=1e-5)
    assert (
        answer["pred_class"]
        == mlp_mixer.weights.labels.class_names("imagenet1k")[answer["pred_label"]]
    )
    checkpoint = load(NAME)
    assert checkpoint.preprocess.resampler == "opencv"
    assert (checkpoint.model.config.norm_eps, checkpoint.model.config.gelu) == (
        1e-5,
        "erf",
    )


@pytest.mark.usefixtures("tiny")
def test_another_file_under_a_published_name_is_refused(cache: Path) -> None:
    put(
        catalog.CATALOG[NAME],
        published_bytes(dataclasses.replace(TINY, num_blocks=2), "mmpretrain", ".pth"),
    )
    with pytest.raises(
        UserError, match=f"is not {NAME}: it has num_blocks 2 instead of 1; delete it"
    ):
        load(NAME)


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and folder of a local web server."""
    folder = tmp_path / "www"
    folder.mkdir()
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    ) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()


def published_at(
    monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any
) -> catalog.PublishedWeights:
    """The record of that name, changed for this test."""
    record = dataclasses.replace(catalog.CATALOG[name], **changes)
    monkeypatch.setattr(
        catalog,
        "find",
        lambda wanted: record if wanted in (record.name, *record.aliases) else None,
    )
    return record


@pytest.mark.usefixtures("tiny")
def test_a_published_file_is_downloaded_once(
    cache: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    (folder / "mixer.npz").write_bytes(published_bytes(TINY, "google", ".npz"))
    record = published_at(
        monkeypatch, "mixer_b16.goog_in1k", url=f"{address}/mixer.npz", mib=None
    )
    first = load(record.name)
    (folder / "mixer.npz").unlink()
    monkeypatch.setenv("MLP_MIXER_OFFLINE", "1")
    again = load(record.name)
    assert torch.equal(first.model.head.weight, again.model.head.weight)  # type: ignore[arg-type]
    assert catalog.cached_path(record) is not None


@pytest.mark.usefixtures("tiny")
def test_a_file_of_another_size_than_published_is_refused(
    cache: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    (folder / "mixer.npz").write_bytes(published_bytes(TINY, "google", ".npz"))
    published_at(
        monkeypatch, "mixer_b16.goog_in1k", url=f"{address}/mixer.npz", mib=228.47
    )
    with pytest.raises(
        UserError, match="MiB, mixer_b16.goog_in1k was published with 228.47"
    ):
        load("mixer_b16.goog_in1k")


@pytest.mark.usefixtures("tiny")
def test_a_file_with_another_hash_than_published_is_refused(
    cache: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    (folder / "mixer.pth").write_bytes(published_bytes(TINY, "mmpretrain", ".pth"))
    record = published_at(monkeypatch, NAME, url=f"{address}/mixer.pth")
    with pytest.raises(UserError, match="SHA-256"):
        load(ALIAS)
    assert catalog.cached_path(record) is None


def test_a_url_is_a_checkpoint(
    cache: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    (folder / "w.npz").write_bytes(published_bytes(TINY, "google", ".npz"))
    assert load(f"{address}/w.npz").provenance["lineage"] == "google"
    (folder / "w.npz").unlink()
    assert load(f"{address}/w.npz").model.config.patch_size == 16  # from the cache
    with pytest.raises(UserError, match="404"):
        load(f"{address}/nothing.npz")


def test_offline_says_where_the_file_belongs(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLP_MIXER_OFFLINE", "1")
    with pytest.raises(
        UserError,
        match=r"put the file at .*cache.*Mixer-B_16.npz.*unset MLP_MIXER_OFFLINE",
    ):
        load("mixer_b16.goog_in1k")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixer_b16", "'mixer_b16' is an architecture without weights of its own"),
        ("mixer_b16.goog_in2k", "did you mean .*'mixer_b16.goog_in1k'"),
        ("nowhere/at/all.npz", "no checkpoint at 'nowhere/at/all.npz'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(name)
