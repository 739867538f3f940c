"""The command line that all experiments have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

BUDGETS = ("smoke", "cpu", "gpu", "full")


def arguments(
    doc: str, *, data: bool = True, more: Sequence[str] = ()
) -> argparse.Namespace:
    """The command line that all experiments have: budget, data, out, device, threads;
    and `more` that take a text.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--budget",
        choices=BUDGETS,
        default="smoke",
        help="a minute, CPU hours, a GPU hour, or all of it",
    )
    if data:
        parser.add_argument(
            "--data", help="such as cifar10:PATH; smoke does with the embedded digits"
        )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results; default: results/BUDGET beside run.py",
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--threads", type=int, default=1)
    for name in more:
        parser.add_argument(name)
    choice = parser.parse_args()
    if data and choice.data is None:
        if choice.budget != "smoke":
            parser.error(
                f"--budget {choice.budget} needs --data, such as --data cifar10:PATH"
            )
        choice.data = "digits"
    torch.set_num_threads(choice.threads)
    return choice
