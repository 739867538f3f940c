"""The tables of the experiments' pages are those of their rows."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The globals of tables.py: its functions look there."""
    return runpy.run_path(str(ROOT / "tables.py"))["made"].__globals__


@pytest.fixture
def tables(names: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**names)


@pytest.fixture
def copied(
    names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """One experiment whose page and rows may be changed."""
    shutil.copytree(ROOT / "ablations", tmp_path / "ablations")
    for shared in ("common", "competitors.py"):
        whole = shutil.copytree if (ROOT / shared).is_dir() else shutil.copy
        whole(ROOT / shared, tmp_path / shared)
    monkeypatch.setitem(names, "ROOT", tmp_path)
    monkeypatch.setitem(names, "PLACES", names["PLACES"][:1])
    return tmp_path / "ablations"


def test_every_page_has_what_its_rows_say(tables: SimpleNamespace) -> None:
    """Write them anew by `python experiments/tables.py`."""
    pages = tables.renewed()
    assert len(pages) >= 11
    for name, text in pages.items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, name


def test_every_rows_file_has_its_place(tables: SimpleNamespace) -> None:
    """But for one whose script has another form now; see BY_HAND."""
    found = {
        path.parent.relative_to(ROOT).as_posix()
        for path in ROOT.glob("*/results/**/rows.jsonl")
    }
    found -= {"keras_cifar100/results/cifar10"}
    assert found <= {place.rows for place in tables.PLACES}
    assert len(found) >= 13


def test_every_table_is_made_from_rows_or_excused(tables: SimpleNamespace) -> None:
    assert not tables.without_rows()
    page = "| a | b |\n| --- | --- |\n| 1 | 2 |\n<!-- cpu -->\n| c |\n|:--|\n<!-- end -->\n"
    assert tables.unmarked(page) == ["a"]
    assert tables.unmarked("text | with | bars\n| no table |\n") == []


def test_a_number_that_was_changed_is_found(
    tables: SimpleNamespace, copied: Path
) -> None:
    page = copied / "README.md"
    text = page.read_text(encoding="utf-8")
    assert tables.renewed() == {"ablations/README.md": text}
    changed = text.replace("| 47.4 ± 0.5 |", "| 47.5 ± 0.5 |")
    assert changed != text
    page.write_text(changed, encoding="utf-8")
    assert tables.renewed() == {"ablations/README.md": text}


def test_a_row_that_was_changed_is_found(tables: SimpleNamespace, copied: Path) -> None:
    path = copied / "results" / "cpu" / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["name"] == "Muon seed 1":
            row["top1"] += 0.02
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (copied / "README.md").read_text(encoding="utf-8")
    assert tables.renewed()["ablations/README.md"] != text


def test_a_page_without_marks_is_named(tables: SimpleNamespace, copied: Path) -> None:
    (copied / "README.md").write_text("# No marks\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="ablations/README.md: no place marked"):
        tables.renewed()
