"""A run's config.json is read as if a stranger had written it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlp_mixer import UserError
from mlp_mixer.report.compare import find_runs
from mlp_mixer.training.record import read_record

CONFIG: dict[str, Any] = {
    "recipe": "digits",
    "data": {"source": "digits"},
    "model": {"name": "mixer_pico2", "init": None},
    "train": {"epochs": 2},
}

WRONG: dict[str, Any] = {
    "a list": [],
    "a number": 3,
    "no config": {"environment": {}},
    "a config of text": {"config": "digits"},
    "no data": {"config": {**CONFIG, "data": None}},
    "a source of numbers": {"config": {**CONFIG, "data": {"source": [1]}}},
    "no source": {"config": {**CONFIG, "data": {}}},
    "a model that is none": {"config": {**CONFIG, "model": "mixer"}},
    "an origin that is none": {"config": {**CONFIG, "model": {"init": 3}}},
    "epochs of text": {"config": {**CONFIG, "train": {"epochs": "2"}}},
    "a recipe of numbers": {"config": {**CONFIG, "recipe": 3}},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_record_of_a_run_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(WRONG[name]))
    with pytest.raises(UserError, match="cannot read the configuration of the run"):
        read_record(tmp_path)
    # Beside a good run it is passed over, as another program's is.
    good = tmp_path / "good"
    good.mkdir()
    (good / "config.json").write_text(json.dumps({"config": CONFIG}))
    (good / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    (tmp_path / "metrics.jsonl").touch()
    (run,) = find_runs([tmp_path])
    assert (run.recipe, run.steps, run.train_loss) == ("digits", 1, None)


BYTES = {
    "a flipped bit": b'{"config": {\xff}}',
    "deep": b"[" * 200_000,
    "a long integer": b'{"config": ' + b"9" * 5000 + b"}",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BYTES)
def test_what_is_no_json_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_bytes(BYTES[name])
    with pytest.raises(UserError, match="give the folder of a training run"):
        read_record(tmp_path)


def test_a_file_without_end_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(
        UserError, match="1,073,741,824 bytes, at most 16,777,216 are read"
    ):
        read_record(tmp_path)


def test_what_an_older_version_wrote_is_read(tmp_path: Path) -> None:
    record = {"config": {**CONFIG, "gone": {"field": 1}}, "notes": []}
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert read_record(tmp_path) == {**record, "environment": {}}
