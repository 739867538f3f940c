"""`mlp-mixer models --weights`: what others have published, for people and for
programs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from mlp_mixer.cli import run
from mlp_mixer.weights.catalog import (
    BUNDLED,
    CATALOG,
    START,
    PublishedWeights,
    cache_place,
)


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def rows(capsys: Capture, *arguments: str) -> list[dict[str, Any]]:
    assert call("models", *arguments, "--weights", "--json") == 0
    answer: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return answer


def test_programs_get_every_field(capsys: Capture) -> None:
    found = rows(capsys)
    assert [row["name"] for row in found] == list(CATALOG)
    assert len(found) == 21
    assert [row["name"] for row in found if row["cached"]] == [BUNDLED.stem, START]
    fields = [field.name for field in dataclasses.fields(PublishedWeights)]
    for row in found:
        assert list(row) == [*fields, "cached", "start_here"]
        record = CATALOG[row["name"]]
        assert row["aliases"] == list(record.aliases)
        assert (row["top1"], row["trained_on"]) == (record.top1, record.trained_on)


def test_a_download_is_reported(capsys: Capture) -> None:
    place = cache_place(CATALOG["mixer_b16.goog_in1k"])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    assert {
        row["name"]: row["cached"] for row in rows(capsys, "mixer_b16.goog_in*")
    } == {"mixer_b16.goog_in1k": True, "mixer_b16.goog_in21k": False}
    assert call("models", "mixer_b16.goog_in*", "--weights") == 0
    here, absent = capsys.readouterr().out.splitlines()[1:3]
    assert " yes " in here
    assert " no " in absent


def test_people_get_a_table(capsys: Capture) -> None:
    assert call("models", "--weights") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "name",
        "start",
        "model",
        "classes",
        "top-1",
        "MiB",
        "licence",
        "here",
        "trained",
        "on",
    ]
    table = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:22]}
    assert list(table) == list(CATALOG)
    mib = f"{BUNDLED.stat().st_size / 2**20:.2f}"
    assert f" 10 - {mib} Apache-2.0 yes CIFAR-10 from" in table[BUNDLED.stem]
    assert table["mixer_b16.goog_in1k"] == (
        "* mixer_b16 1,000 76.44 228.47 Apache-2.0 no ImageNet-1k from scratch, 300 epochs"
    )
    assert (
        table["mixer_b16.timm_goog_in1k"]
        == "mixer_b16 1,000 76.62 - Apache-2.0 no ImageNet-1k from scratch"
    )
    assert table["mixer_b16.timm_miil_in21k"].startswith(
        "mixer_b16 11,221 - - unknown no ImageNet-21K-P"
    )
    assert "unverified" in table["mixer_s8.goog_gsam_in1k"]


def test_it_says_where_to_start(capsys: Capture) -> None:
    """With what a download costs and may be used for, as the catalog says it."""
    assert call("models", "--weights") == 0
    lines = capsys.readouterr().out.splitlines()
    marked = [line.split()[0] for line in lines[1:22] if line.split()[1] == "*"]
    place = lines.index("* start here:")
    advice = [line.strip().partition(": ") for line in lines[place + 1 : place + 5]]
    assert sorted(name for name, _, _ in advice) == sorted(marked)
    assert marked[:2] == [BUNDLED.stem, START]
    for name, _, text in advice:
        record = CATALOG[name]
        if record.mib is None:
            assert "works offline" in text
        else:
            assert f"{record.mib:.0f} MiB" in text
            assert record.licence in text
    # Beside a pattern only what matches it.
    assert call("models", "*mmpretrain*", "--weights") == 0
    assert "start here" not in capsys.readouterr().out


def test_a_narrow_terminal_keeps_the_names_whole(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert call("models", "--weights") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in CATALOG)
    assert "…" not in text
    assert "licence" not in text.splitlines()[0]


@pytest.mark.parametrize("pattern", ["mlp-mixer*", "*mmpretrain*"])
def test_patterns_match_aliases_too(capsys: Capture, pattern: str) -> None:
    assert [row["name"] for row in rows(capsys, pattern)] == [
        "mixer_b16.mmpretrain_in1k",
        "mixer_l16.mmpretrain_in1k",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["mixer_x*"],
            "no published weights match 'mixer_x*'; `mlp-mixer models --weights` lists all",
        ),
        (
            ["--image-size", "448"],
            "--image-size and --classes belong to architectures; leave them out beside --weights",
        ),
        (
            ["--classes", "10"],
            "--image-size and --classes belong to architectures; leave them out beside --weights",
        ),
    ],
)
def test_mistakes(capsys: Capture, arguments: list[str], sentence: str) -> None:
    assert call("models", *arguments, "--weights") == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_architectures_are_listed_as_before(capsys: Capture) -> None:
    assert call("models", "mixer_s8", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert "trained_on" not in row
    assert row["params"] == 20_646_504
