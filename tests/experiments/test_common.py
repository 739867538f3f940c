"""What the experiments share: differences beside scipy's tests, learning rates that are
bracketed, rows that are measured once.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import common

    return common


def drawn(n: int, spread: float, seed: int) -> dict[int, float]:
    rng = np.random.default_rng(seed)
    return dict(enumerate(rng.normal(0.5, spread, n).tolist()))


@pytest.mark.parametrize(("n", "seed"), [(2, 0), (3, 1), (6, 2), (20, 3)])
def test_a_paired_difference_is_that_of_scipy(
    common: ModuleType, n: int, seed: int
) -> None:
    ours, theirs = drawn(n, 0.02, seed), drawn(n, 0.04, seed + 50)
    found = common.paired(ours, theirs)
    expected = stats.ttest_rel(list(ours.values()), list(theirs.values()))
    interval = expected.confidence_interval(0.95)
    assert found.n == (n,)
    assert found.freedom == expected.df == n - 1
    assert found.t == pytest.approx(expected.statistic, rel=1e-10)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-10)


@pytest.mark.parametrize(
    ("n", "spreads"), [((3, 6), (0.04, 0.001)), ((2, 2), (1, 2)), ((5, 9), (1, 1))]
)
def test_welch_is_that_of_scipy(
    common: ModuleType, n: tuple[int, int], spreads: tuple[float, float]
) -> None:
    ours, theirs = (
        drawn(count, spread, count) for count, spread in zip(n, spreads, strict=True)
    )
    theirs = {seed + 100: value for seed, value in theirs.items()}
    found = common.welch(ours, theirs)
    expected = stats.ttest_ind(
        list(ours.values()), list(theirs.values()), equal_var=False
    )
    interval = expected.confidence_interval(0.95)
    assert found.n == n
    assert found.freedom == pytest.approx(expected.df, rel=1e-10)
    assert found.t == pytest.approx(expected.statistic, rel=1e-10)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-10)


def test_pairs_are_of_seeds_and_not_of_places(common: ModuleType) -> None:
    """A baseline with more seeds, in another order: only what both have counts."""
    theirs = {5: 9.0, 2: 3.0, 0: 1.0, 1: 2.0}
    ours = {0: 1.5, 1: 2.5, 2: 3.5}
    found = common.paired(ours, theirs)
    assert (found.mean, found.error, found.n) == (0.5, 0.0, (3,))
    assert found.interval == (0.5, 0.5)
    with pytest.raises(ValueError, match="no seed in common"):
        common.paired({0: 1.0}, {1: 1.0})


def test_one_run_has_no_interval(common: ModuleType) -> None:
    for found in (
        common.paired({0: 0.5, 1: 0.6}, {0: 0.4}),
        common.welch({0: 0.5}, {0: 0.4, 1: 0.4}),
    ):
        assert math.isnan(found.error)
        assert found.interval == (-math.inf, math.inf)
        assert found.told() == "+10.0 (n = 1)"
    assert common.stars([found]) == [""]


def test_equal_runs_differ_by_nothing(common: ModuleType) -> None:
    same = {0: 0.4, 1: 0.6}
    assert common.paired(same, same).p == 1
    assert common.welch({0: 0.4, 1: 0.4}, {0: 0.4, 1: 0.4}).p == 1
    assert common.stars([common.paired(same, same)]) == [""]


def test_a_difference_in_words(common: ModuleType) -> None:
    found = common.Difference(0.018, 0.0053, 2, (3,))
    assert found.told() == "+1.8 [-0.5, +4.1]"
    assert found.told(decimals=2, scale=1) == "+0.02 [-0.00, +0.04]"


def test_holm_by_hand(common: ModuleType) -> None:
    """Chances 0.016, 0.04, 0.03 and 0.005 become 0.048, 0.06, 0.06 and 0.02."""

    def of_chance(p: float) -> object:
        return common.Difference(1.0, 1 / stats.norm.isf(p / 2), 1e12, (3,))

    chances = (0.016, 0.04, 0.03, 0.005)
    found = [of_chance(p) for p in chances]
    assert [one.p for one in found] == pytest.approx(chances, rel=1e-6)
    assert common.stars(found) == [" **", " *", " *", " **"]
    # With two more in the table each of them counts less. (Bonferroni would give the
    # first one a single star already above.)
    more = [*found, of_chance(0.5), of_chance(0.9)]
    assert common.stars(more) == [" *", " *", " *", " **", "", ""]
    unknown = common.Difference(1.0, math.nan, 0, (1,))
    assert common.stars([*found, unknown])[:4] == common.stars(found)
    assert common.starred([found[3]])[0].endswith("] **")


def test_five_in_a_hundred_tables_of_chance_have_a_false_double_star(
    common: ModuleType,
) -> None:
    rng = np.random.default_rng(0)
    tables = 1000
    false = 0
    for _ in range(tables):
        rows = [
            common.paired(
                dict(enumerate(rng.normal(size=3))), dict.fromkeys(range(3), 0.0)
            )
            for _ in range(8)
        ]
        false += " **" in common.stars(rows)
    # Binomial: 50 of 1,000 expected, with a deviation of 7.
    assert 25 < false < 75


@pytest.mark.parametrize("best", [1e-4, 2e-3, 5e-3, 1.3e-2, 0.09])
def test_the_best_rate_has_neighbours(common: ModuleType, best: float) -> None:
    tried: list[float] = []

    def accuracy(lr: float) -> float:
        tried.append(lr)
        return -abs(math.log(lr / best))

    found = common.bracketed((4e-3, 8e-3, 1.6e-2), accuracy)
    assert len(tried) == len(set(tried))
    assert found == max(tried, key=lambda lr: -abs(math.log(lr / best)))
    if best > 4e-4:  # at most four beyond the grid
        assert min(tried) < found < max(tried)
        assert abs(math.log(found / best)) <= math.log(2) / 2
    else:
        assert len(tried) == 7
    assert set(tried) >= {4e-3, 8e-3, 1.6e-2}


def test_a_grid_goes_on_by_its_own_factor(common: ModuleType) -> None:
    tried: list[float] = []

    def rising(lr: float) -> float:
        tried.append(lr)
        return min(lr, 0.3)

    assert common.bracketed((1e-3, 3e-3, 9e-3), rising) == 0.729
    assert tried == pytest.approx([1e-3, 3e-3, 9e-3, 0.027, 0.081, 0.243, 0.729])
    tried.clear()
    assert common.bracketed((2e-3,), rising) == 2e-3  # a smoke test
    assert tried == [2e-3]


def test_a_rate_at_an_end_is_marked(common: ModuleType) -> None:
    tried = {1e-3: 0.1, 3e-3: 0.2, 9e-3: 0.3}
    assert common.rate_cell(9e-3, tried) == "0.009 ^"
    assert common.rate_cell(1e-3, {1e-3: 0.3, 3e-3: 0.2}) == "0.001 ^"
    assert common.rate_cell(3e-3, {**tried, 3e-3: 0.4}) == "0.003"
    assert common.rate_cell(2e-3, {2e-3: 0.1}) == "0.002"
    assert common.rate_cell(2e-3, {}) == "0.002"


def test_a_rate_that_another_has_beaten_says_so(common: ModuleType) -> None:
    """The rows are of a shorter grid: at its end then, in its middle now."""
    tried = {2e-3: 0.4, 4e-3: 0.3, 8e-3: 0.2}
    assert common.rate_cell(4e-3, tried) == "0.004 (0.002 did better)"
    assert common.rate_cell(8e-3, tried) == "0.008 (0.002 did better)"
    # As good is not better, and of a rate that was not tried nothing is known.
    assert common.rate_cell(4e-3, {2e-3: 0.3, 4e-3: 0.3, 8e-3: 0.1}) == "0.004"
    assert common.rate_cell(5e-3, tried) == "0.005"


def test_rows_are_measured_once_and_again_with_other_settings(
    common: ModuleType, tmp_path: Path
) -> None:
    results = common.Results.kept(tmp_path)
    results.get("a seed 0", lambda: {"top1": 0.1, "lr": 0.1})
    results.get("a seed 10", lambda: {"top1": 0.3, "lr": 0.1})
    results.get("a seed 2", lambda: {"top1": 0.2, "lr": 0.1})
    results.get("a seed 0", lambda: pytest.fail("measured twice"))
    results.get("a seed 0", lambda: pytest.fail("measured twice"), lr=0.1)
    assert results.by_seed("a") == {0: 0.1, 2: 0.2, 10: 0.3}
    results.get("a seed 0", lambda: {"top1": 0.4, "lr": 0.2}, lr=0.2)
    again = common.Results.kept(tmp_path)
    assert again.by_seed("a") == {0: 0.4, 2: 0.2, 10: 0.3}
    assert again.by_seed("a", "lr")[0] == 0.2
    assert again.labels() == ["a"]
    assert again.tried("a seed 1") == {0.1: 0.3}
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4


def test_labels_are_whole_names(common: ModuleType, tmp_path: Path) -> None:
    """`all Mixer` is not `Mixer`, and what has no seed is no label."""
    rows = [
        {"name": name, "top1": 0.5}
        for name in ("Mixer seed 0", "all Mixer seed 1", "Mixer L seed 0", "costs")
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    results = common.Results.kept(tmp_path)
    assert results.by_seed("Mixer") == {0: 0.5}
    assert results.labels() == ["Mixer", "all Mixer", "Mixer L"]
    assert results.by_seed("Mix") == {}


def test_text_goes_between_its_own_marks(common: ModuleType) -> None:
    page = "a\n<!-- cpu -->\nold\n<!-- end -->\nb\n<!-- gpu -->\n<!-- end -->\n"
    assert common.placed(page, "gpu", "new\n\n") == page.replace(
        "<!-- gpu -->\n", "<!-- gpu -->\nnew\n"
    )
    assert common.placed(page, "cpu", "new").startswith(
        "a\n<!-- cpu -->\nnew\n<!-- end -->\nb\n"
    )
    for broken in ("no marks", "<!-- cpu -->\nnever closed"):
        with pytest.raises(ValueError, match="no place marked"):
            common.placed(broken, "cpu", "new")
