"""The journal of a run: JSON lines in `metrics.jsonl`, beside `config.json` with the
configuration and environment.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..errors import UserError
from ..files import write_text

JournalRow = dict[str, Any]
NAME = "metrics.jsonl"


class Journal:
    """Appends rows, each a whole line on disk before the next step; forgets those after
    the step it is opened at.
    """

    def __init__(self, out: Path, *, from_step: int) -> None:
        self.path = out / NAME
        kept = (
            [row for row in read_journal(out) if row.get("step", 0) <= from_step]
            if from_step
            else []
        )
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: JournalRow) -> None:
        """Add one row; `UserError` if the disk refuses."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {str(self.path)!r}: {error.strerror}; free some space and resume"
            ) from error


def read_journal(out: Path) -> list[JournalRow]:
    """The rows of a run's journal; a last line cut short by a crash is left out."""
    path = out / NAME
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def environment(device: torch.device) -> dict[str, Any]:
    """Where a run took place: versions, threads, hardware, and the commit if the
    package lies in a checkout.
    """
    return {
        "mlp_mixer": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(terse=True),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} ({_cpu_name()})",
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "command": " ".join(["mlp-mixer", *sys.argv[1:]]),
    }


def _commit() -> str | None:
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "rev-parse",
        "--short=12",
        "HEAD",
    ]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
