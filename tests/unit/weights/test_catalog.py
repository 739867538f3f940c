"""The catalog: consistent records, honest ones, and names that mean one thing."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest

from mlp_mixer.models import VARIANTS, cost, model_config
from mlp_mixer.weights.catalog import (
    BUNDLED,
    CATALOG,
    START,
    PublishedWeights,
    cache_place,
    cached_path,
    find,
    list_models,
)
from mlp_mixer.weights.labels import class_names

# The first are the bundled ones, which test_bundled.py looks at.
FIRST, SECOND, *ALL = CATALOG.values()
GOOGLE = [record for record in ALL if record.lineage == "google"]
TIMM = [record for record in ALL if record.lineage == "timm"]

each = pytest.mark.parametrize("record", ALL, ids=lambda record: record.name)


def npz_bytes(record: PublishedWeights) -> int:
    """The size of an npz of these weights: numbers, two zip entries and a header each."""
    config = model_config(record.architecture, num_classes=record.num_classes)
    arrays = [
        f"{module}/{kind}" for module in ("stem", "head") for kind in ("kernel", "bias")
    ]
    norms = ["pre_head_layer_norm"]
    for block in (f"MixerBlock_{i}" for i in range(config.num_blocks)):
        norms += [f"{block}/LayerNorm_{i}" for i in (0, 1)]
        for mlp in ("token_mixing", "channel_mixing"):
            arrays += [
                f"{block}/{mlp}/Dense_{i}/{kind}"
                for i in (0, 1)
                for kind in ("kernel", "bias")
            ]
    arrays += [f"{norm}/{kind}" for norm in norms for kind in ("scale", "bias")]
    return (
        4 * cost(config).params
        + sum(30 + 46 + 128 + 2 * len(f"{name}.npy") for name in arrays)
        + 22
    )


def test_nineteen_records_under_their_own_names() -> None:
    assert Counter(record.lineage for record in ALL) == {
        "google": 11,
        "timm": 6,
        "mmpretrain": 2,
    }
    assert all(CATALOG[record.name] is record for record in ALL)
    assert FIRST.name == BUNDLED.stem
    assert SECOND.name == START
    assert FIRST.lineage == SECOND.lineage == "native"
    assert find(FIRST.name) is FIRST


@each
def test_a_record_is_consistent(record: PublishedWeights) -> None:
    architecture, _, tag = record.name.partition(".")
    assert architecture == record.architecture
    assert architecture in VARIANTS
    assert re.fullmatch(r"(goog|timm|mmpretrain)[a-z0-9_]*", tag)
    assert (record.url is None) != (record.hub is None)
    assert (record.top1 is None) == (record.top1_source is None)
    assert record.top1 is None or record.num_classes == 1000
    if record.url is not None:
        assert record.url.startswith("https://")
        assert record.url.endswith("/" + record.filename)
    else:
        assert record.hub in record.aliases
    if record.sha256 is not None:
        assert re.fullmatch("[0-9a-f]{8}", record.sha256)
        assert record.url is not None
        assert record.sha256 in record.url.rpartition("/")[2]


@each
def test_a_record_names_its_classes_or_says_that_nobody_knows(
    record: PublishedWeights,
) -> None:
    if record.labels is None:
        assert record.num_classes == 11221
    else:
        assert len(class_names(record.labels)) == record.num_classes


@pytest.mark.parametrize("record", GOOGLE, ids=lambda record: record.name)
def test_googles_files_have_the_size_of_the_architecture(
    record: PublishedWeights,
) -> None:
    assert record.mib is not None
    params = cost(
        model_config(record.architecture, num_classes=record.num_classes)
    ).params
    assert 0 < record.mib - params * 4 / 2**20 < 0.1
    assert round(npz_bytes(record) / 2**20, 2) == record.mib


def test_every_name_means_one_record() -> None:
    names = Counter(name for record in ALL for name in (record.name, *record.aliases))
    assert [name for name, n in names.items() if n > 1] == []
    assert not set(names) & set(VARIANTS)


@each
def test_a_record_is_found_by_all_its_names(record: PublishedWeights) -> None:
    assert record.aliases
    for name in (record.name, *record.aliases):
        assert find(name) is record


@pytest.mark.parametrize(
    "name",
    [
        "mixer_b16",
        "mixer_b16_224",  # an architecture of timm
        "mixer_b16_224_in21k",  # timm 1.0.31 gives the 1000 classes for it
        "Mixer-B_16.npz",  # in four folders of Google's bucket
        "MIXER_B16.GOOG_IN1K",
        "mixer_b16.goog",
        "",
    ],
)
def test_what_is_not_a_name_is_not_found(name: str) -> None:
    assert find(name) is None


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("B-i1k/16", "mixer_b16.goog_in1k"),
        ("L-i1k/16", "mixer_l16.goog_in1k"),
        ("B-i21k/16", "mixer_b16.goog_in21k"),
        ("L-i21k/16", "mixer_l16.goog_in21k"),
        ("imagenet1k/Mixer-B_16.npz", "mixer_b16.goog_in1k"),
        ("gs://mixer_models/sam/Mixer-B_32.npz", "mixer_b32.goog_sam_in1k"),
        ("gs://mixer_models/gsam/Mixer-S_8.npz", "mixer_s8.goog_gsam_in1k"),
        ("mixer_l16_224.goog_in21k_ft_in1k", "mixer_l16.timm_goog_in1k"),
        ("timm/mixer_b16_224.goog_in21k", "mixer_b16.timm_goog_in21k"),
        ("hf-hub:timm/mixer_b16_224.miil_in21k", "mixer_b16.timm_miil_in21k"),
        ("mixer_b16_224.miil_in21k_ft_in1k", "mixer_b16.timm_miil_in21k_ft_in1k"),
        ("mlp-mixer-large-p16_3rdparty_64xb64_in1k", "mixer_l16.mmpretrain_in1k"),
    ],
)
def test_the_names_of_other_projects(name: str, ours: str) -> None:
    record = find(name)
    assert record is not None
    assert record.name == ours


def test_addresses_as_published() -> None:
    assert (
        CATALOG["mixer_s8.goog_gsam_in1k"].url
        == "https://storage.googleapis.com/mixer_models/gsam/Mixer-S_8.npz"
    )
    assert CATALOG["mixer_b16.mmpretrain_in1k"].url == (
        "https://download.openmmlab.com/mmclassification/v0/mlp-mixer/"
        "mixer-base-p16_3rdparty_64xb64_in1k_20211124-1377e3e0.pth"
    )
    assert CATALOG["mixer_l16.mmpretrain_in1k"].url == (
        "https://download.openmmlab.com/mmclassification/v0/mlp-mixer/"
        "mixer-large-p16_3rdparty_64xb64_in1k_20211124-5a2519d2.pth"
    )
    timm = CATALOG["mixer_b16.timm_goog_in1k"]
    assert (timm.hub, timm.filename) == (
        "timm/mixer_b16_224.goog_in21k_ft_in1k",
        "model.safetensors",
    )


@pytest.mark.parametrize("architecture", ["mixer_b16", "mixer_l16"])
def test_timms_misnomer_is_called_imagenet_1k_from_scratch(architecture: str) -> None:
    record = find(f"{architecture}_224.goog_in21k_ft_in1k")
    assert record is not None
    assert record.trained_on.partition(";")[0] == "ImageNet-1k from scratch"
    assert "timm#651" in record.trained_on
    paper = CATALOG[f"{architecture}.goog_in1k"]
    assert record.paper_row == paper.paper_row
    assert record.top1 is not None
    assert paper.top1 is not None
    assert abs(record.top1 - paper.top1) < 0.4


@each
def test_nobody_but_miil_fine_tuned_from_imagenet_21k(record: PublishedWeights) -> None:
    claim = record.trained_on.partition(";")[0].casefold()
    fine_tuned = "21k" in claim and "fine-tuned" in claim
    assert fine_tuned == (record.name == "mixer_b16.timm_miil_in21k_ft_in1k")
    assert ("_ft_" in record.name) == fine_tuned
    if "21k" in claim and not fine_tuned:
        assert record.num_classes > 1000


def test_doubts_are_stated() -> None:
    for record in ALL:
        if "_gsam_" in record.name:
            assert "unverified" in record.trained_on
            assert "timm#1302" in record.trained_on
            assert record.top1 is None
        if "miil" in record.name:
            assert record.licence == "unknown"
        else:
            assert record.licence == "Apache-2.0"


def test_rows_of_the_paper() -> None:
    rows = {record.name: record.paper_row for record in GOOGLE if record.paper_row}
    assert {name: row.split(", ")[1:] for name, row in rows.items()} == {
        "mixer_b16.goog_in1k": ["ImageNet", "224 px", "76.44"],
        "mixer_l16.goog_in1k": ["ImageNet", "224 px", "71.76"],
        "mixer_b16.goog_in21k": [
            "ImageNet-21k",
            "224 px",
            "80.64 after fine-tuning on ImageNet-1k",
        ],
        "mixer_l16.goog_in21k": [
            "ImageNet-21k",
            "224 px",
            "82.89 after fine-tuning on ImageNet-1k",
        ],
    }


def test_accuracies_are_those_that_timm_published(shared: Path) -> None:
    text = (
        shared / "data" / "imagenet_meta" / "published_mixer_accuracy.csv"
    ).read_text(encoding="utf-8")
    table = next(
        part for part in text.split("# ") if part.startswith("results-imagenet.csv\n")
    ).partition("\n")[2]
    published = {
        row["model"]: float(row["top1"]) for row in csv.DictReader(io.StringIO(table))
    }
    ours = {
        record.aliases[0]: record.top1 for record in TIMM if record.num_classes == 1000
    }
    assert len(ours) == 3
    assert ours == {name: published[name] for name in ours}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("mlp-mixer*", ["mixer_b16.mmpretrain_in1k", "mixer_l16.mmpretrain_in1k"]),
        ("*miil*", ["mixer_b16.timm_miil_in21k", "mixer_b16.timm_miil_in21k_ft_in1k"]),
        ("mixer_s8*", ["mixer_s8.goog_gsam_in1k"]),
        ("[BL]-i21k/16", ["mixer_b16.goog_in21k", "mixer_l16.goog_in21k"]),
        ("gs://*/sam/*", ["mixer_b16.goog_sam_in1k", "mixer_b32.goog_sam_in1k"]),
        ("MIXER*", []),
        ("", []),
    ],
)
def test_patterns_match_names_and_aliases(pattern: str, names: list[str]) -> None:
    assert list_models(pattern, weights=True) == names


def test_listing_everything() -> None:
    assert list_models(weights=True) == list(CATALOG)
    assert list_models("mixer_*") == list(VARIANTS)
    assert "gmlp_s16" in list_models()
    assert list_models("mixer_b*") == ["mixer_b32", "mixer_b16"]


def test_a_download_is_seen_and_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google gives the same file name to different weights."""
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path))
    one = CATALOG["mixer_b16.goog_in1k"]
    other = CATALOG["mixer_b16.goog_sam_in1k"]
    assert one.filename == other.filename
    assert cached_path(one) is None
    assert list(tmp_path.iterdir()) == []
    cache_place(one).parent.mkdir(parents=True)
    cache_place(one).write_bytes(b"")
    assert cached_path(one) == tmp_path / "weights" / one.name / "Mixer-B_16.npz"
    assert cached_path(other) is None
    assert len({cache_place(record) for record in ALL if record.url}) == 13


def test_a_file_from_the_hub_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = CATALOG["mixer_b16.timm_miil_in21k"]
    asked: list[tuple[str, str]] = []
    answers = iter(
        [None, object(), str(tmp_path / "model.safetensors")]
    )  # absent, known not to exist, there

    def look(repository: str, filename: str) -> object:
        asked.append((repository, filename))
        return next(answers)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look)
    assert cached_path(record) is None
    assert cached_path(record) is None
    assert cached_path(record) == tmp_path / "model.safetensors"
    assert set(asked) == {("timm/mixer_b16_224.miil_in21k", "model.safetensors")}
