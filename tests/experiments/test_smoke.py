"""Each experiment in small, started twice: rows and pictures are there, and what was
measured is not measured again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..commands import run as run_warm

ROOT = Path(__file__).parents[2] / "experiments"
RUNS = sorted(
    path
    for path in ROOT.glob("*/run.py")
    if "common.arguments(" in path.read_text(encoding="utf-8")
)
# Begun as by hand; of the others, the imports took most of the time.
FROM_NOTHING = "variable_resolution"
# The same process twice: the second start imports nothing.
TWICE = """
import os, runpy, sys
out, sys.argv = sys.argv[1], sys.argv[2:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
for start in range(2):
    runpy.run_path(sys.argv[0], run_name="__main__")
    rows = open(out, "rb+")
    if start == 0:
        text = rows.read()
        rows.truncate(len(text) - 9)  # as a kill in the middle of the last line leaves it
        open(out + ".first", "wb").write(text)
"""


def test_all_experiments_are_found() -> None:
    assert {"ablations", "fig2_data_scale", "fig3_compute", "fig4_permutation"} <= {
        path.parent.name for path in RUNS
    }


@pytest.mark.parametrize("run", RUNS, ids=lambda path: path.parent.name)
def test_smoke(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    smoke = ["--budget", "smoke", "--out", str(tmp_path)]
    words = ["-c", TWICE, str(rows), str(run), *smoke]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MLP_MIXER_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    if run.parent.name == FROM_NOTHING:
        done = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=1200,
        )
    else:
        done = run_warm(words, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    first = (tmp_path / "rows.jsonl.first").read_text(encoding="utf-8").splitlines()
    second = rows.read_text(encoding="utf-8").splitlines()
    assert len(first) > 1
    assert second[:-1] == first[:-1]  # with the times that they took
    again = json.loads(second[-1])
    before = json.loads(first[-1])
    assert [again.get(key) for key in ("name", "top1", "loss")] == [
        before.get(key) for key in ("name", "top1", "loss")
    ]
    if run.parent.name == "fig4_permutation":
        largest = {
            row["name"]: row["largest"]
            for row in map(json.loads, first)
            if row["name"].startswith("exact")
        }
        assert (
            largest["exact float64 patches permuted"]
            < 1e-12
            < 1e-4
            < largest["exact float64 patches plain"]
        )
    assert "| --- |" in done.stdout
    pictures = list(tmp_path.glob("*.svg"))
    assert pictures
    assert all(picture.stat().st_size > 5000 for picture in pictures)
