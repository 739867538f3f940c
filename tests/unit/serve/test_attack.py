"""The attacks of `benchmarks/attack.py` on a live server, at a small size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlp_mixer.inference import Predictor
from mlp_mixer.weights.checkpoint import save

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SIZE = 2**19
REFUSED = {400, 413, 415, 422}

if not BENCHMARKS.is_dir() or not Path("/proc/self/statm").is_file():
    pytest.skip("needs the repository and /proc", allow_module_level=True)


@pytest.fixture(scope="module")
def attack() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as path:
        path.syspath_prepend(str(BENCHMARKS))
        import attack

        yield attack


@pytest.fixture(scope="module")
def weights(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("served") / "w.safetensors"
    save(file, predictor.model, preprocess=predictor.checkpoint.preprocess)
    return str(file)


@pytest.fixture(scope="module")
def target(attack: ModuleType, weights: str) -> Iterator[Any]:
    """A server that decodes every format, on a machine that may be busy."""
    with attack.server(weights, "--formats", "all", *attack.PATIENT) as target:
        yield target


def test_hostile_pictures_are_refused_or_answered_and_cost_little(
    attack: ModuleType, target: Any
) -> None:
    # Those of 49 megapixels take the seconds that such pictures take.
    files = {
        name: data
        for name, data in attack.files(None, SIZE, side=600)
        if "many_pixels" not in name
    }
    assert len(files) > 50
    before = target.mib()
    rows = list(attack.pictures(target, files, rest=0))
    for row in rows:
        assert row["good"] == [200, 200], row
        assert set(row["status"]) <= {200, *REFUSED}, row
        assert row["peak_bound_mib"] < 400, row
    # It comes back about a second later.
    while target.mib() > before + 100:
        time.sleep(0.1)
    told = attack.worst(rows, "picture")
    assert told["worst of"] == len(files)
    assert told["cpu_seconds"][0] == max(row["cpu_seconds"] for row in rows)


def test_bodies_of_every_shape_are_refused_or_answered(
    attack: ModuleType, target: Any
) -> None:
    for row in attack.shapes(target, SIZE):
        assert set(row["status"]) <= REFUSED, row
        assert row["health"] == [200], row


def test_nobody_notices_that_decoders_are_killed(
    attack: ModuleType, target: Any, weights: str
) -> None:
    told = attack.Soak(target, weights, seed=0, pause=0.05).run(5)
    counts = told["soak"]
    assert counts["killed"] > 0
    assert counts["vanished"] > 0
    # 503: killed twice while it was decoded.
    expected = {"good 200", "good 503", "slow 200", "slow 503", "killed", "vanished"}
    expected |= {"good, one of two: error"}
    others = {key for key in counts if not key.startswith("bad 4")}
    assert "good 200" in others
    assert others <= expected, told
    assert all("outside" in reason for reason in told["reasons"]), told
    assert told["health"] == 200


def test_an_answer_that_is_another_pictures_would_be_noticed(
    attack: ModuleType, target: Any, weights: str
) -> None:
    soak = attack.Soak(target, weights, seed=0, pause=0)
    soak.known = soak.known[::-1]
    soak.good()
    assert soak.counts["wrong: another picture's answer"] > 0


def test_damaged_bodies_break_nothing(attack: ModuleType, target: Any) -> None:
    told = attack.fuzz(target, 80)
    sent = {status.removeprefix("http ") for status in told["status"]}
    assert sent <= {"200", "closed", "404", "405", *map(str, REFUSED)}, told
    assert told["decoders_ended"] == 0
    assert told["good"] == told["health"] == 200


def test_a_signal_at_any_instant_leaves_nobody_without_an_answer(
    attack: ModuleType, weights: str
) -> None:
    told, second = attack.signals(weights, 2)
    assert set(told["told"]) <= {"200", "503", "refused", "late"}, told
    assert set(told["codes"]) == {143}
    assert second["waited after one"]
    assert second["code"] == 143


def test_a_slope_has_its_error(attack: ModuleType) -> None:
    from attacks.soak import slope

    flat = slope([100 + number % 7 for number in range(600)])["mib_a_minute"]
    assert abs(flat["slope"]) < 2 * flat["standard_error"] + 0.01
    rising = slope([100 + number / 60 + number % 7 for number in range(600)])
    for key in ("mib_a_minute", "mib_a_minute_in_the_last_third"):
        assert rising[key]["slope"] == pytest.approx(1, abs=0.1)
        assert rising[key]["slope"] > 3 * rising[key]["standard_error"]
