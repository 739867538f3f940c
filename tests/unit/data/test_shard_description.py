"""Nothing that dataset.json claims is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Change = Callable[[dict[str, Any], dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda all, train: all.pop("classes"), "does not describe shards: KeyError"),
        (lambda all, train: all.update(classes=[1, 2]), "classes are not all names"),
        (lambda all, train: all.update(classes=None), "does not describe shards: TypeError"),
        (lambda all, train: all.update(classes=["one"]), "labels go from 0 to 2 but there are 1"),
        (lambda all, train: all.update(format_version=2), "its format_version is '2', expected 1"),
        (lambda all, train: all.update(splits=[]), "does not describe shards: AttributeError"),
        (lambda all, train: all["splits"].pop("train"), "has test but no train"),
        (lambda all, train: all["splits"].update({"../x": train}), "its splits are"),
        (lambda all, train: train.update(images=24), "values of .* for 24 images"),
        (lambda all, train: train.update(images=2**70), "is not a number of bytes"),
        (lambda all, train: train.update(images=-1), "'-1' is not a number of bytes"),
        (lambda all, train: train.update(images="23"), "'23' is not a number of bytes"),
        (lambda all, train: train.update(size=[5]), "does not describe shards: ValueError"),
        (lambda all, train: train.update(size=[5, 2**40]), "is not a number of bytes"),
        (lambda all, train: train.update(size=[5, float("nan")]), "'nan' is not a number"),
        (lambda all, train: train.update(images=True), "'True' is not a number of bytes"),
        (lambda all, train: train.update(images=float("inf")), "'inf' is not a number"),
        (lambda all, train: train["index"].update(name="../out/x"), "not the name of a file"),
        (lambda all, train: train["index"].update(name="/etc/passwd"), "not the name of a file"),
        (lambda all, train: train["index"].update(name="c:\\x"), "not the name of a file"),
        (lambda all, train: train["index"].update(name="a\\..\\x"), "not the name of a file"),
        (lambda all, train: train["index"].update(name="nowhere"), "cannot read the index"),
        (lambda all, train: train["shards"][0].update(name="../x.tar"), "not the name of a file"),
        (lambda all, train: train["shards"][0].update(name="x.tar"), "cannot read the shard .*x"),
        (lambda all, train: train["shards"][0].update(bytes=512), "points beyond its shards"),
        (lambda all, train: train["shards"][0].update(bytes=10**9), "bytes, expected 1000000000"),
        (lambda all, train: train["shards"].pop(), "points beyond its shards"),
        (lambda all, train: train["shards"].reverse(), "points beyond|check sum|bytes, expected"),
    ],
)  # fmt: skip
def test_a_description_that_lies(
    out: Path, refused: Callable[[str], None], change: Change, message: str
) -> None:
    described = json.loads((out / "dataset.json").read_bytes())
    change(described, described["splits"]["train"])
    (out / "dataset.json").write_text(json.dumps(described))
    refused(message)


HUGE_VERSION = '{"format_version": 1' + "0" * 5000 + "}"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "null", "[" * 100_000, HUGE_VERSION]
)
def test_a_description_that_is_none(out, refused, text):
    (out / "dataset.json").write_text(text)
    refused("does not describe shards")


def test_a_description_without_end(refused, monkeypatch):
    monkeypatch.setattr("mlp_mixer.data.shard_description.MOST_BYTES", 1000)
    refused("has .* bytes, at most 1,000 are read")


def test_a_description_that_cannot_be_read(refused, monkeypatch):
    def denied(*_: object, **__: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", denied)
    refused("cannot read .*dataset.json': Permission denied")
