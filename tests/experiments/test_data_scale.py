"""`experiments/fig2_data_scale`: which rows make a curve, and what it gains."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "fig2_data_scale" / "run.py"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(SCRIPT.parents[1]))
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def rows(run: SimpleNamespace, gains: dict[str, float], lr: float = 0.01) -> list[dict]:
    """Rows of the budget smoke: two parts, two seeds, so much more at ten times as many."""
    found = []
    for name, gain in gains.items():
        for seed in range(2):
            for part, top1 in ((0.1, 0.3 + 0.1 * seed), (1, 0.3 + 0.1 * seed + gain)):
                label = f"toy {name} {part:g} seed {seed}"
                row = {"name": label, "top1": top1, "lr": lr, "mmacs": 1.0}
                found.append(row | {"images": int(1000 * part)})
    return found


def kept(run: SimpleNamespace, folder: Path, lines: list[dict]) -> object:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "rows.jsonl").write_text(text)
    return run.common.Results.kept(folder)


def test_a_gain_is_taken_seed_by_seed(run: SimpleNamespace, tmp_path: Path) -> None:
    """The seeds are ten points apart; their gains are not."""
    lines = rows(run, {"Mixer": 0.05, "ViT": 0.02, "ResNet": 0.06})
    text = run.told(kept(run, tmp_path, lines), "smoke")
    assert "| Mixer minus ViT | +3.0 [+3.0, +3.0] **" in text
    assert "| Mixer minus ResNet | -1.0 [-1.0, -1.0] **" in text


def test_rows_of_a_rate_that_was_replaced_make_no_table(
    run: SimpleNamespace, tmp_path: Path
) -> None:
    gains = {"Mixer": 0.05, "ViT": 0.02, "ResNet": 0.06}
    lines = rows(run, gains)
    lines += rows(run, {"ViT": 0.03}, lr=0.002)[:3]
    assert run.curves_of(kept(run, tmp_path, lines), "smoke") == {}
    lines += rows(run, {"ViT": 0.03}, lr=0.002)[3:]
    assert set(run.curves_of(kept(run, tmp_path, lines), "smoke")) == {"toy"}
    assert run.curves_of(kept(run, tmp_path, lines[:-13]), "smoke") == {}
