"""Results that outlive a kill: rows of JSON, written as soon as they are measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mlp_mixer import __version__
from mlp_mixer.machine import commit


class Results:
    """Rows of results in a JSON-lines file, by name; whoever starts again finds what is
    done.
    """

    def __init__(self, choice: argparse.Namespace, script: str) -> None:
        self.folder: Path = (
            choice.out or Path(script).parent / "results" / choice.budget
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "rows.jsonl"
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line
        self.rows: dict[str, dict[str, Any]] = {
            row["name"]: row for row in map(json.loads, whole.splitlines())
        }
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")

    @classmethod
    def kept(cls, folder: Path) -> Results:
        """The rows that lie in a folder already."""
        return cls(argparse.Namespace(out=folder), "")

    def get(
        self, name: str, measure: Callable[[], dict[str, Any]], **settings: object
    ) -> dict[str, Any]:
        """The row of that name: as found, or measured now and kept. Progress is
        printed.

        settings: Fields that a row must have; one that was measured with others (a
            learning rate that is no longer the best) is measured again.
        """
        found = self.rows.get(name, {})
        stale = any(found.get(key) != value for key, value in settings.items())
        if not found or stale:
            row = {"name": name, **measure(), "machine": machine()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.rows[name] = row
            shown = {
                key: value
                for key, value in row.items()
                if isinstance(value, int | float)
            }
            print(
                f"{name}: "
                + ", ".join(f"{key} {value:.4g}" for key, value in shown.items()),
                flush=True,
            )
        return self.rows[name]

    def of_seeds(self, label: str, seeds: int, key: str = "top1") -> list[Any]:
        """What the rows `label seed 0`, `label seed 1`, ... have under that key."""
        return [self.rows[f"{label} seed {seed}"][key] for seed in range(seeds)]

    def labels(self) -> list[str]:
        """What stands before ` seed 0`, ` seed 1`, ... in the names, each once."""
        parts = (name.rpartition(" seed ") for name in self.rows)
        return list(dict.fromkeys(label for label, mark, _ in parts if mark))

    def seeds(self, label: str) -> dict[int, dict[str, Any]]:
        """All rows `label seed 0`, `label seed 1`, ... that there are, by seed."""
        parts = {name: name.rpartition(" seed ") for name in self.rows}
        found = {
            int(seed): self.rows[name]
            for name, (own, mark, seed) in parts.items()
            if mark and own == label
        }
        return dict(sorted(found.items()))

    def by_seed(self, label: str, key: str = "top1") -> dict[int, Any]:
        """What these rows have under that key, by seed."""
        return {seed: row[key] for seed, row in self.seeds(label).items()}

    def tried(self, prefix: str) -> dict[float, float]:
        """The accuracy by learning rate, of the rows whose names begin so."""
        return {
            row["lr"]: row["top1"]
            for name, row in self.rows.items()
            if name.startswith(prefix)
        }


def machine() -> str:
    """Processor or GPU, threads, versions and commit: what a figure is worth nothing
    without.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    chip = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else (names or [platform.processor()])[0]
    )
    known = commit()
    of_commit = f", commit {known}" if known else ""
    return f"{chip}, {torch.get_num_threads()} threads, torch {torch.__version__}, mlp_mixer {__version__}{of_commit}"
