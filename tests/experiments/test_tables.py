"""The tables of the experiments' pages are those of their rows."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlp_mixer.recipes.measured import MEASURED

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


# Recipe -> folder and label of its rows.
ROWS = {
    "digits": ("ladder", "digits 60 epochs"),
    "fashion_mnist": (
        "ladder",
        "fashion_mnist 16 epochs data.workers=0 train.threads=1",
    ),
    "fashion_mnist_12ep": ("ladder", "fashion_mnist_10min 12 epochs train.threads=1"),
    "fashion_mnist_28ep": ("ladder", "fashion_mnist_30min 28 epochs train.threads=1"),
    "cifar10": ("ladder", "cifar10 3 epochs"),
    "cifar10_16ep": ("cpu/contest", "ours"),
    "cifar10_50ep": ("ladder", "cifar10_50ep 50 epochs train.threads=1"),
    "cifar110_8ep": ("ladder", "cifar110_8ep 8 epochs"),
    "photos": ("ladder", "photos 33.95 epochs"),
}
UNNAMED = {"cifar10"}  # by README: a plain start, which a better recipe replaces


def test_every_measured_recipe_has_rows() -> None:
    assert set(ROWS) == set(MEASURED)


@pytest.mark.parametrize("recipe", ROWS)
def test_the_first_page_has_the_rows_too(tables: SimpleNamespace, recipe: str) -> None:
    """README's table and `mlp-mixer recipes`."""
    folder, label = ROWS[recipe]
    results = tables.common.Results.kept(ROOT / "records" / "results" / folder)
    tops = [100 * top1 for top1 in results.by_seed(label).values()]
    mean = statistics.mean(tops)
    stated = MEASURED[recipe]
    assert stated.runs == len(tops)
    assert stated.top1 == pytest.approx(mean, abs=0.05)
    page = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    begin = rf"\| `mlp-mixer train {recipe}[ `]"
    line = next((line for line in page.splitlines() if re.match(begin, line)), "")
    if recipe in UNNAMED:
        assert not line
        return
    if len(tops) == 1:
        assert f"**{mean:.1f} %** (one run)" in line
        return
    sd = statistics.stdev(tops)
    assert stated.sd == pytest.approx(sd, abs=0.05)
    runs = rf"(n = {len(tops)}|mean of {len(tops)} [\w ,]+), sd "
    assert re.search(rf"\*\*{mean:.1f} %\*\* \({runs}", line)
    told = float(re.findall(r"sd ([\d.]+)", line)[0])
    assert told == pytest.approx(sd, abs=0.05)


FINE_TUNED = ROOT / "records" / "results" / "cpu" / "small_folders_folder"


@pytest.mark.parametrize("way", ["auto", "frozen"])
@pytest.mark.parametrize("count", [100, 300, 1800])
def test_the_pages_have_the_fine_tunings_of_the_rows(
    tables: SimpleNamespace, count: int, way: str
) -> None:
    """`docs/which.md` to a decimal, the first page to a point."""
    results = tables.common.Results.kept(FINE_TUNED)
    rows = results.seeds(f"{count} {way}").values()
    assert len(rows) == 3
    told = tables.common.spread([row["top1"] for row in rows])
    seconds = statistics.mean(row["cpu_s"] for row in rows)
    page = (ROOT.parent / "docs" / "which.md").read_text(encoding="utf-8")
    command = "`finetune`" if way == "auto" else "`finetune --frozen`"
    begin = f"| {count:,} | {command} | "
    line = next(line for line in page.splitlines() if line.startswith(begin))
    top, time = line.removeprefix(begin).strip("| ").split(" | ")
    assert top == f"{told} %"
    assert float(time.removesuffix(" s")) == pytest.approx(seconds, rel=0.05, abs=0.6)
    first = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    line = next(line for line in first.splitlines() if line.startswith(f"| {count:,} "))
    mean = float(told.split(" ")[0])
    numbers = [float(number) for number in re.findall(r"([\d.]+) %", line)]
    if way == "auto" or count == 1800:
        assert any(abs(number - mean) <= 0.5 for number in numbers), (line, mean)


def test_what_hangs_on_the_end_of_a_grid_is_not_decided() -> None:
    """The index beside the pages: ^ marks a rate at the end of what was tried."""
    index = (ROOT / "README.md").read_text(encoding="utf-8")
    checked = []
    for line in index.splitlines():
        pages = re.findall(r"\]\((\w+)\)", line)
        if not line.startswith("| ") or not pages:
            continue
        texts = [(ROOT / page / "README.md").read_text("utf-8") for page in pages]
        verdict = line.split(" | ")[-1]
        if any(" ^ |" in text or "did better) |" in text for text in texts):
            assert "not decided" in verdict, line
            checked.append(pages[0])
    # Unless their grids were bracketed since.
    assert set(checked) <= {"fig2_data_scale", "fig3_compute", "ablations"}


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


def told(tables: SimpleNamespace, script: str, folder: Path, lines: list[dict]) -> str:
    """The text that a script makes of these rows."""
    text = "".join(json.dumps(line | {"machine": "a machine"}) + "\n" for line in lines)
    (folder / "rows.jsonl").write_text(text)
    with tables.imported(ROOT / script) as found:
        return found["told"](tables.common.Results.kept(folder), "cpu")


def test_small_folders_are_compared_by_the_images_drawn(
    tables: SimpleNamespace, tmp_path: Path
) -> None:
    lines = [
        {"name": f"{count} {way} seed {seed}", "n": 50, "loss": 1.0, "cpu_s": 10.0}
        | {"top1": 0.5 + 0.1 * seed + gain}
        for count in (100, 1800)
        for way, gain in (("auto", 0.0), ("frozen", 0.03), ("random", -0.25))
        for seed in range(3)
    ]
    text = told(tables, "records/small_table.py", tmp_path, lines)
    assert "| 1,800 | frozen | 3 | 63.0 ± 10.0 | +3.0 [+3.0, +3.0] ** |" in text
    assert "| 100 | auto | 3 | 60.0 ± 10.0 | - | 1.00 | 10 |" in text


def test_the_keras_example_is_paired_where_its_network_is_the_same(
    tables: SimpleNamespace, tmp_path: Path
) -> None:
    cells = (("Keras", "Keras", 0.0), ("ours", "ours", 0.2), ("Keras", "ours", 0.1))
    lines = [
        {"name": f"network {network} recipe {recipe} seed {seed}", "params": 1000}
        | {"mmacs": 1.0, "top5": 0.9, "top1": 0.3 + 0.1 * seed + gain}
        for network, recipe, gain in cells
        for seed in range(2)
    ]
    text = told(tables, "keras_cifar100/compared.py", tmp_path, lines)
    same = "network Keras recipe ours minus network Keras recipe Keras"
    assert f"| {same} | +10.0 [+10.0, +10.0] ** |" in text
    # Welch: two rows of deviation 7.1 each.
    other = "network ours recipe ours minus network Keras recipe Keras"
    assert f"| {other} | +20.0 [-10.4, +50.4] |" in text
    assert "| Keras | Keras | 1,000 | 1.0 | - | 2 | 35.0 ± 7.1 | 90.0 ± 0.0 |" in text


def test_photos_show_the_networks_of_now(
    tables: SimpleNamespace, tmp_path: Path
) -> None:
    """Older rows of other networks stay in the file and out of the table."""
    cost = {"images": 3600, "images_per_s": 9.0, "cpu_s": 400.0, "wall_s": 410.0}
    cost |= {"params": 1000, "mmacs": 1.0, "lr": 0.0026667}
    lines = [
        {"name": f"{name} seed {seed}", "top1": top1 + 0.01 * seed} | cost
        for name, top1 in (
            ("Mixer-S/32", 0.3),
            ("Mixer 64/8", 0.6),
            ("ResNet-18 96", 0.5),
        )
        for seed in range(3)
    ]
    lines += [
        {"name": f"pick Mixer 64/8 lr {lr:.3g}", "top1": 1 - lr, "lr": lr}
        for lr in (0.0026667, 0.008)
    ]
    lines.append({"name": "ridge on pixels", "top1": 0.328, "cpu_s": 3.0})
    text = "".join(json.dumps(line | {"machine": "a machine"}) + "\n" for line in lines)
    (tmp_path / "rows.jsonl").write_text(text)
    with tables.imported(ROOT / "records" / "contests.py") as found:
        page = found["photos_told"](tables.common.Results.kept(tmp_path), "cpu")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| Mixer 64/8",
        "| ResNet-18 96",
        "| ridge on pixels",
    ]
    assert "| 0.0027 ^ |" in rows[2]
    assert "| 61.0 ± 1.0 | 2.00 ± 0.00 |" in rows[2]
    assert rows[3].endswith("| 3 | +10.0 [+7.7, +12.3] ** |")
    assert "| 32.8 |" in rows[4]
