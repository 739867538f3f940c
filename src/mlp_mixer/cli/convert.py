"""`mlp-mixer convert`: any lineage's weights as any other's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import Input, Key, Labels, OverwriteFile, parse_size


def convert(
    source: Input,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The file to write; a folder for huggingface."
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="native, huggingface, google, bigvision, timm, mmpretrain, lavish619, "
            "keras, ..."
        ),
    ],
    key: Key = None,
    image_size: Annotated[
        str | None,
        typer.Option(help="HxW of the weights, where their shapes leave it open."),
    ] = None,
    lineage: Annotated[
        str | None,
        typer.Option(
            "--lineage", help="Whose names IN uses (default: recognise them)."
        ),
    ] = None,
    dialect: Annotated[str | None, typer.Option("--dialect", hidden=True)] = None,
    labels: Labels = None,
    dtype: Annotated[
        str | None, typer.Option(help="Round the numbers to fp32, bf16 or fp16.")
    ] = None,
    about: Annotated[
        str,
        typer.Option(
            metavar="JSON", help='Facts to write down, such as {"licence": "MIT"}.'
        ),
    ] = "{}",
    force: Annotated[
        bool,
        typer.Option("--force", help="Write even if the results change; says how."),
    ] = False,
    overwrite: OverwriteFile = False,
) -> int:
    """Convert weights between lineages, refusing what would change their results."""
    from ..weights.convert import convert as run

    done = run(
        source,
        out,
        to,
        key=key,
        image_size=None if image_size is None else parse_size(image_size),
        # --dialect is the old name of the option.
        lineage=lineage or dialect,
        labels=labels,
        dtype=dtype,
        about=_facts(about),
        force=force,
        overwrite=overwrite,
    )
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{done.path}: {to} weights, read from {source} ({done.lineage})")
    return 0


def _facts(text: str) -> dict[str, Any]:
    from ..errors import UserError
    from ..untrusted.text import parse_json

    try:
        facts = parse_json(text)
    except ValueError as error:
        raise UserError(
            f"cannot read --about {text[:200]!r} ({error}): expected a JSON object"
        ) from error
    # A list of pairs would make a dictionary too, and of words of two letters as well.
    if not isinstance(facts, dict):
        raise UserError(f"--about is {text[:200]!r}: expected a JSON object")
    return facts
