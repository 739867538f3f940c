"""A report of a short run: what is evaluated, and which mistakes are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlp_mixer.cli import run
from mlp_mixer.errors import UserError
from mlp_mixer.report import build as module
from mlp_mixer.report import build_report


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    short = ["--set", "train.epochs=0.5"]
    assert run(["train", "digits", "--out", str(out), *short]) == 0
    return out


def test_a_run_becomes_a_report(trained: Path) -> None:
    ends: dict[str, tuple[int, int]] = {}

    def stage(unit: str) -> Callable[[int, int], None]:
        return lambda done, total: ends.update({unit: (done, total)})

    report = build_report(trained, stage=stage)
    # Each stage was counted to its end.
    assert list(ends) == ["test images", "validation images", "maps of mistakes"]
    assert all(done == total > 0 for done, total in ends.values())
    facts = dict(report.facts)
    assert report.title.endswith("on digits")
    assert "evaluated on digits, test" in report.subtitle
    assert report.confusion is not None
    assert report.confusion.sum() == int(facts["test images"].replace(",", ""))
    assert report.classes == tuple("0123456789")
    assert "top-5 accuracy" in facts
    assert "GMACs per image" in facts
    # Every cell has pictures of its own class, and no more than it counts.
    assert report.cells
    for cell in report.cells:
        count = report.confusion[cell.true, cell.predicted]
        assert 0 < len(cell.pictures) <= min(count, 12)
    drawing = report.pictures[0]
    assert drawing.heading == "Block 1"
    # The same units on another ground.
    assert drawing.light.shape == drawing.dark.shape
    assert drawing.light.mean() > drawing.dark.mean() + 50
    assert len(report.samples) == 12
    for sample in report.mistakes:
        assert not sample.correct
        assert sample.heat is not None
    confidences = [sample.top[0][1] for sample in report.mistakes]
    assert confidences == sorted(confidences, reverse=True)


def test_a_temperature_needs_the_runs_own_dataset(trained: Path) -> None:
    own = build_report(trained)
    other = build_report(trained, data="digits")
    assert own.tempered is not None
    assert other.tempered is None


def test_few_validation_images_choose_no_temperature(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = build_report(trained)
    assert own.remark == ""
    monkeypatch.setattr(module, "FEWEST", 1000)
    few = build_report(trained)
    assert few.tempered is None
    assert few.remark == "Too few validation images to choose a temperature: 145."


def test_a_folder_that_is_no_run_is_one_sentence(trained: Path, tmp_path: Path) -> None:
    weights = trained / "best.safetensors"
    (tmp_path / "best.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(UserError, match="config.json.*give the folder of a training"):
        build_report(tmp_path)


def test_only_as_many_maps_are_computed_as_take_seconds(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAP_MACS", 0.0)
    report = build_report(trained)
    assert report.mistakes
    assert all(sample.heat is None for sample in report.mistakes)


def test_the_worst_mistakes_are_the_most_confident_ones() -> None:
    answers: Any = SimpleNamespace(
        predictions=np.array([0, 1, 1, 0]),
        labels=np.array([0, 0, 0, 1]),
        probabilities=np.array([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.9, 0.1]]),
    )
    assert module._worst_mistakes(answers).tolist() == [2, 3, 1]


def test_samples_are_spread_over_all_images() -> None:
    assert module._spread(100, 3).tolist() == [0, 50, 99]
    assert module._spread(2, 12).tolist() == [0, 1]
