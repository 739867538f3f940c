"""`mlp-mixer recipes`: the names that `mlp-mixer train` takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .console import print_json, print_table


def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """List the training recipes: those that were measured, then those that were not.

    With --json: the complete settings of each, and "measured" (null if it was not).
    """
    from ..config import to_dict
    from ..recipes import MEASURED, RECIPES, claim

    if as_json:
        print_json(
            {
                name: to_dict(recipe())
                | {"measured": asdict(MEASURED[name]) if name in MEASURED else None}
                for name, recipe in RECIPES.items()
            }
        )
        return 0
    print("Measured here: mean ± standard deviation over runs; n test images in each")
    print_table(
        {"recipe": "left", "test top-1": "left", "on": "left", "cost": "left"},
        [
            (
                name,
                str(row),
                row.dataset,
                row.cost + (f"; {row.remark}" if row.remark else ""),
            )
            for name, row in MEASURED.items()
        ],
    )
    print("\nNot run in full here: the number, if any, is its source's claim or an aim")
    print_table(
        {"recipe": "left", "claim": "left"},
        [(name, claim(name)) for name in RECIPES if name not in MEASURED],
    )
    return 0
