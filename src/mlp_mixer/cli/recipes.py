"""`mlp-mixer recipes`: what `mlp-mixer train` can be asked for."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from .console import print_json, print_table


def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """List the training recipes; with --json, their complete settings."""
    from ..config import to_dict
    from ..recipes import RECIPES

    if as_json:
        print_json({name: to_dict(recipe()) for name, recipe in RECIPES.items()})
        return 0
    print_table(
        {"recipe": "left", "what it promises": "left"},
        [
            (name, (inspect.getdoc(recipe) or "").split("\n\n")[0])
            for name, recipe in RECIPES.items()
        ],
    )
    return 0
