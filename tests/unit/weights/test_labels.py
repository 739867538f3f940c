"""Class names: as many as logits, in their order, the same as the published tables."""

from __future__ import annotations

import re
import unicodedata
from importlib.resources import files
from pathlib import Path

import pytest

from mlp_mixer.errors import UserError
from mlp_mixer.weights.labels import class_names, class_numbers, wordnet_ids

KEYS = {"imagenet1k": 1000, "imagenet21k_goog": 21843}


@pytest.mark.parametrize(("key", "classes"), KEYS.items())
def test_as_many_as_logits(key: str, classes: int) -> None:
    names = class_names(key)
    ids = wordnet_ids(key)
    assert len(names) == len(ids) == classes
    assert all(name and name == name.strip() for name in names)
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in ids)
    assert list(ids) == sorted(set(ids))


@pytest.mark.parametrize(
    ("key", "index", "wnid", "name"),
    [
        ("imagenet1k", 0, "n01440764", "tench, Tinca tinca"),
        (
            "imagenet1k",
            388,
            "n02510455",
            "giant panda, panda, panda bear, coon bear, Ailuropoda melanoleuca",
        ),
        (
            "imagenet1k",
            999,
            "n15075141",
            "toilet tissue, toilet paper, bathroom tissue",
        ),
        ("imagenet21k_goog", 0, "n00004475", "organism, being"),
        ("imagenet21k_goog", 21842, "n15102894", "knothole"),
    ],
)
def test_anchors(key: str, index: int, wnid: str, name: str) -> None:
    assert (wordnet_ids(key)[index], class_names(key)[index]) == (wnid, name)


def test_both_sets_call_a_class_the_same() -> None:
    large = dict(
        zip(
            wordnet_ids("imagenet21k_goog"),
            class_names("imagenet21k_goog"),
            strict=True,
        )
    )
    small = dict(zip(wordnet_ids("imagenet1k"), class_names("imagenet1k"), strict=True))
    assert [wnid for wnid in small if wnid not in large] == [
        "n04399382"
    ]  # the teddy bear
    assert all(large.get(wnid, name) == name for wnid, name in small.items())


def test_names_may_repeat_but_ids_do_not() -> None:
    cranes = [i for i, name in enumerate(class_names("imagenet1k")) if name == "crane"]
    assert [wordnet_ids("imagenet1k")[i] for i in cranes] == ["n02012849", "n03126707"]


@pytest.mark.parametrize("read", [class_names, wordnet_ids])
def test_an_unknown_set(read: object) -> None:
    assert callable(read)
    with pytest.raises(
        UserError,
        match="unknown set of classes 'imagenet-1k'; did you mean 'imagenet1k'",
    ):
        read("imagenet-1k")


def test_read_once() -> None:
    assert class_names("imagenet1k") is class_names("imagenet1k")


def test_the_compressed_table_carries_no_date_or_file_name() -> None:
    header = (
        files("mlp_mixer.weights") / "data" / "imagenet21k_goog.tsv.gz"
    ).read_bytes()[:8]
    assert header == bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0])


def test_the_origin_is_named_beside_the_data() -> None:
    notice = (files("mlp_mixer.weights") / "data" / "NOTICE.txt").read_text(
        encoding="utf-8"
    )
    for word in (
        "pytorch-image-models",
        "Apache License, Version 2.0",
        "WordNet 3.0 Copyright 2006",
    ):
        assert word in notice


@pytest.mark.parametrize("key", KEYS)
def test_line_by_line_as_published(key: str, shared: Path) -> None:
    lines = (
        (shared / "data" / "imagenet_meta" / f"{key}_classes.tsv")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    ours = zip(wordnet_ids(key), class_names(key), strict=True)
    assert [
        f"{index}\t{wnid}\t{name}" for index, (wnid, name) in enumerate(ours)
    ] == lines


def test_an_accent_is_found_in_both_spellings() -> None:
    apart = unicodedata.normalize("NFD", "café")
    numbers = class_numbers(["naïve", apart])
    assert numbers["café"] == numbers[apart] == 1
    # Two classes of one name are neither of them.
    assert "café" in class_numbers(["café", apart])
    assert class_numbers(["café", apart])["café"] == 0
