"""Write the tables of all experiments' README.md anew, from the rows that are kept.

    python experiments/tables.py             # all pages
    python experiments/tables.py --check     # changes nothing; exit code 1 if a page differs
    python experiments/tables.py --pictures  # draws the pictures too

Nothing is measured. A table of measurements that is not between marks, and so not made
from rows, has to stand in BY_HAND with the reason.
"""

from __future__ import annotations

import argparse
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
import common

ROOT = Path(__file__).parent


class Place(NamedTuple):
    """A table in a page: made by `function` of a script from results/MARK/rows.jsonl."""

    script: str
    mark: str
    function: str = "told"
    drawn: bool = True

    @property
    def page(self) -> str:
        return f"{self.script.split('/')[0]}/README.md"

    @property
    def rows(self) -> str:
        return f"{self.script.split('/')[0]}/results/{self.mark}"


PLACES = (
    Place("ablations/run.py", "cpu"),
    Place("complexity/run.py", "cpu"),
    Place("fig2_data_scale/run.py", "cpu"),
    Place("fig3_compute/run.py", "cpu"),
    Place("fig4_permutation/run.py", "cpu"),
    Place("fig5_fig6_fig7_weights/run.py", "cpu"),
    Place("invariance/run.py", "cpu"),
    Place("keras_cifar100/compared.py", "cpu", drawn=False),
    Place("records/ladder.py", "ladder", drawn=False),
    Place("records/ladder.py", "precision", drawn=False),
    Place("records/contest.py", "cpu/contest", drawn=False),
    Place("records/contest.py", "cpu/contest_fitted", drawn=False),
    Place("records/contests.py", "cpu/photos", "photos_told", drawn=False),
    Place("records/small_table.py", "cpu/small_folders_folder", drawn=False),
    Place("records/run.py", "cpu/run"),
    Place("table1_costs/run.py", "cpu"),
    Place("transfer/run.py", "cpu"),
    Place("variable_resolution/run.py", "cpu"),
)

# By page, the first heading of each table that no rows stand behind.
BY_HAND = {
    "README.md": {
        "the paper": "verdicts",
        "Fig. 1: [the architecture](../src/mlp_mixer/models/mixer.py)": "pictures",
        "what": "reasons",
    },
    "fig3_compute/README.md": {"trained on ImageNet": "the paper's numbers"},
    "fig5_fig6_fig7_weights/README.md": {"": "pictures"},
    "invariance/README.md": {
        "what is changed in a trained network": "exact, tests prove it"
    },
    "keras_cifar100/README.md": {"network": "made by an earlier form of the script"},
    "resolution/README.md": {"image": "its rows were not kept"},
    "table1_costs/README.md": {"variant": "counted, tests compare them"},
    "transfer/README.md": {"pretext": "short trials; their rows were not kept"},
}


@contextmanager
def imported(script: Path) -> Iterator[dict[str, Any]]:
    """The names of a script, whose neighbours are forgotten afterwards.

    Other folders have modules of the same names.
    """
    before = set(sys.modules)
    path = list(sys.path)
    sys.path.insert(0, str(script.parent))
    try:
        yield runpy.run_path(str(script))
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if Path(file).parent == script.parent:
                del sys.modules[name]


def made(place: Place, pictures: bool = False) -> str | None:
    """The text that belongs between the marks; None while there are no rows."""
    folder = ROOT / place.rows
    if not (folder / "rows.jsonl").exists():
        return None
    budget = place.mark.partition("/")[0]
    results = common.Results.kept(folder)
    with imported(ROOT / place.script) as names:
        if pictures and place.drawn:
            names["drawn"](results, budget)
        tell: Callable[[common.Results, str], str] = names[place.function]
        return tell(results, budget)


def renewed(pictures: bool = False) -> dict[str, str]:
    """The text of each page as the rows have it."""
    pages: dict[str, str] = {}
    for place in PLACES:
        text = made(place, pictures)
        if text is None:
            print(f"{place.page}: no rows of {place.mark} yet", file=sys.stderr)
            continue
        if place.page not in pages:
            pages[place.page] = (ROOT / place.page).read_text(encoding="utf-8")
        try:
            pages[place.page] = common.placed(pages[place.page], place.mark, text)
        except ValueError as error:
            sys.exit(f"{place.page}: {error}")
    return pages


def unmarked(page: str) -> list[str]:
    """The first headings of the tables of a page that stand outside all marks."""
    outside = re.sub(r"<!-- (?!end)[^>]* -->.*?<!-- end -->", "", page, flags=re.DOTALL)
    lines = outside.splitlines()
    return [
        head.split("|")[1].strip()
        for head, below in pairwise(lines)
        if head.startswith("|") and re.fullmatch(r"\|[\s:|-]+\|", below)
    ]


def without_rows() -> list[str]:
    """Tables that are neither made from rows nor excused in BY_HAND."""
    return [
        f"{name}: the table '{heading}' is not made from rows"
        for path in sorted(ROOT.glob("**/README.md"))
        for name in [path.relative_to(ROOT).as_posix()]
        for heading in unmarked(path.read_text(encoding="utf-8"))
        if heading not in BY_HAND.get(name, {})
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--pictures", action="store_true", help="draw them too")
    choice = parser.parse_args()
    wrong = without_rows()
    for name, text in renewed(choice.pictures and not choice.check).items():
        path = ROOT / name
        if path.read_text(encoding="utf-8") == text:
            continue
        if choice.check:
            wrong.append(f"{name} differs from its rows: python experiments/tables.py")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
