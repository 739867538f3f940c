"""The attacks of `benchmarks/attack.py` on a live server, at a small size."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlp_mixer.inference import Predictor
from mlp_mixer.weights.checkpoint import save

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "attack.py"
SIZE = 2**19
REFUSED = {400, 413, 415, 422}

if not SCRIPT.is_file() or not Path("/proc/self/statm").is_file():
    pytest.skip("needs the repository and /proc", allow_module_level=True)


@pytest.fixture(scope="module")
def attack() -> ModuleType:
    spec = importlib.util.spec_from_file_location("attack", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def target(
    attack: ModuleType, predictor: Predictor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A server that decodes every format."""
    weights = tmp_path_factory.mktemp("served") / "w.safetensors"
    save(weights, predictor.model, preprocess=predictor.checkpoint.preprocess)
    with attack.server(str(weights), "--formats", "all") as target:
        yield target


def test_hostile_pictures_are_refused_or_answered_and_cost_little(
    attack: ModuleType, target: Any
) -> None:
    # Those of 49 megapixels take the seconds that such pictures take.
    files = {
        name: data
        for name, data in attack.hostile.hostile_files(SIZE)
        if "many_pixels" not in name
    }
    for row in attack.pictures(target, files):
        assert row["good"] == 200, row
        assert set(row["status"]) <= {200, *REFUSED}, row
        assert row["peak_over_base_mib"] < 400, row
        assert row["after_over_base_mib"] < 100, row


def test_bodies_of_every_shape_are_refused_or_answered(
    attack: ModuleType, target: Any
) -> None:
    for row in attack.shapes(target, SIZE):
        assert row["status"] in REFUSED, row
        assert row["health"] == 200, row


def test_nobody_notices_that_decoders_are_killed(
    attack: ModuleType, target: Any
) -> None:
    told = attack.soak(target, 5)
    assert told["soak"]["killed"] > 0
    # 503: killed twice while it was decoded.
    good = {key for key in told["soak"] if key.startswith("good")}
    assert "good 200" in good
    assert good <= {"good 200", "good 503"}, told
    assert told["health"] == 200


def test_damaged_bodies_break_nothing(attack: ModuleType, target: Any) -> None:
    told = attack.fuzz(target, 40)
    assert set(told["fuzzed"]) <= {200, *REFUSED}, told
    assert told["health"] == 200
