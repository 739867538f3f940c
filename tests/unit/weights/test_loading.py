"""`load` by name: the documented lines, the cache, the network, and what the record
says.
"""

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
from mlp_mixer import MixerConfig, UserError, inference_model, load
from mlp_mixer.models import VARIANTS
from mlp_mixer.weights import catalog, loading
from mlp_mixer.weights.formats import containers
from mlp_mixer.weights.lineages import translate
from mlp_mixer.weights.lineages.tables import LINEAGES

DEMO = Path(__file__).parents[3] / "demo"
TINY = MixerConfig(16, 1, 4, 2, 8, num_classes=1000)
NAME = "mixer_b16.mmpretrain_in1k"
ALIAS = "mlp-mixer-base-p16_3rdparty_64xb64_in1k"


def published_bytes(
    config: MixerConfig, name_of_lineage: str, suffix: str, head_bias: float = 0.0
) -> bytes:
    """A file as that lineage would have published it, with random weights."""
    lineage = LINEAGES[name_of_lineage]
    config = dataclasses.replace(config, gelu=lineage.gelu, norm_eps=lineage.norm_eps)
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {
            name: tensor.shape
            for name, tensor in mlp_mixer.MlpMixer(config).state_dict().items()
        }
    ours = {name: (torch.randn(shape) * 0.3).half() for name, shape in shapes.items()}
    ours["head.bias"] += head_bias
    wrap = "state_dict" if name_of_lineage == "mmpretrain" else None
    return containers.to_bytes(
        suffix, translate.to_theirs(config, ours, lineage), wrap=wrap
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published B/16 is a tiny network here."""
    monkeypatch.setitem(VARIANTS, "mixer_b16", TINY)


def put(record: catalog.PublishedWeights, data: bytes) -> Path:
    """The file where the cache keeps it."""
    place = catalog.cache_place(record)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def test_the_documented_line_runs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inference_model(name, 'demo/bird.JPEG')` with a file of the published kind, size
    and names (random weights).
    """
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
def test_what_the_record_knows_is_in_the_provenance(cache: Path) -> None:
    record = catalog.CATALOG[NAME]
    put(record, published_bytes(TINY, "mmpretrain", ".pth"))
    for name in (NAME, ALIAS):
        checkpoint = load(name)
        assert checkpoint.provenance["name"] == NAME
        assert checkpoint.provenance["trained_on"] == record.trained_on
        assert checkpoint.provenance["source"] == record.url
        assert checkpoint.provenance["head"] == "softmax"
        assert checkpoint.labels is not None
        assert checkpoint.labels[388].startswith("giant panda")


def test_a_head_trained_with_sigmoid_says_so(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(published_bytes(TINY, "google", ".npz", head_bias=-6.9))
    checkpoint = load(path)
    assert checkpoint.provenance["head"] == "sigmoid"
    assert (checkpoint.model.config.gelu, checkpoint.preprocess.resampler) == (
        "tanh",
        "big_vision",
    )
    prediction = mlp_mixer.Predictor(checkpoint)(DEMO / "bird.JPEG")
    assert prediction.score_kind == "sigmoid"


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


def test_a_stated_size_is_never_resized_to(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(published_bytes(TINY, "google", ".npz"))
    assert load(path, image_size=224).model.config.image_size == (224, 224)
    assert load(path, image_size=(112, 448)).model.config.grid == (7, 28)
    with pytest.raises(UserError, match="only stated, never changed to"):
        load(path, image_size=448)
    with pytest.raises(UserError, match="expected a side, or height and width"):
        load(path, image_size=0)


def test_a_dialect_can_be_forced_and_must_fit(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(published_bytes(TINY, "google", ".npz"))
    assert load(path, lineage="google").provenance["lineage"] == "google"
    with pytest.raises(
        UserError,
        match="is no timm checkpoint of an MLP-Mixer; its tensors are stem/kernel",
    ):
        load(path, lineage="timm")
    with pytest.raises(
        UserError, match="unknown lineage 'gogle'; did you mean 'google'"
    ):
        load(path, lineage="gogle")
    with pytest.raises(UserError, match="was not written by mlp-mixer"):
        load(path, lineage="native")
    assert loading.load is mlp_mixer.load


def test_a_thousand_classes_are_taken_for_imagenets_and_said(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(published_bytes(TINY, "google", ".npz"))
    checkpoint = load(path)
    assert checkpoint.labels is not None
    assert (
        checkpoint.provenance["labels"]
        == "assumed to be those of imagenet1k, because there are 1,000"
    )
    path.write_bytes(
        published_bytes(dataclasses.replace(TINY, num_classes=999), "google", ".npz")
    )
    assert load(path).labels is None
