"""`load`: what is recognised, assumed, stated and forced, and what it says of that."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import mlp_mixer
from mlp_mixer import UserError, load
from mlp_mixer.weights import catalog, loading

from .closeness import assert_same_network
from .published import ALIAS, DEMO, NAME, TINY, published_bytes, put


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


def test_a_stated_size_is_never_resized_to(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(published_bytes(TINY, "google", ".npz"))
    assert load(path, image_size=224).model.config.image_size == (224, 224)
    assert load(path, image_size=(112, 448)).model.config.grid == (7, 28)
    with pytest.raises(UserError, match="only stated, never changed to"):
        load(path, image_size=448)
    with pytest.raises(UserError, match="expected a side, or height and width"):
        load(path, image_size=0)


def test_a_lineage_can_be_forced_and_must_fit(tmp_path: Path) -> None:
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


def test_a_file_of_version_0_1_0_still_says_dialect(tmp_path: Path) -> None:
    """It wrote the lineage under that key; provenance is free JSON and is kept."""
    model = mlp_mixer.create_model("mixer_pico2", num_classes=3)
    origin = {"file": "Mixer-B_16.npz", "container": "npz", "dialect": "google"}
    path = mlp_mixer.save(tmp_path / "old.safetensors", model, provenance=origin)
    checkpoint = load(path)
    assert checkpoint.provenance == origin
    assert_same_network(checkpoint.model, model)


def test_a_native_file_may_be_read_as_timms(tmp_path: Path) -> None:
    """Its tensors have timm's names; its description is then left aside."""
    model = mlp_mixer.create_model("mixer_pico2", num_classes=3, norm_eps=1e-5)
    path = mlp_mixer.save(tmp_path / "m.safetensors", model, labels=list("abc"))
    as_native = load(path, lineage="native")
    assert (as_native.model.config.norm_eps, as_native.labels) == (1e-5, tuple("abc"))
    as_timm = load(path, lineage="timm")
    assert (as_timm.model.config.norm_eps, as_timm.labels) == (1e-6, None)
    assert as_timm.provenance["lineage"] == "timm"
