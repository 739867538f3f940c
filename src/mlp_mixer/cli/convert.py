"""`mlp-mixer convert`: any lineage's weights as any other's."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import complete


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A file, a folder, or a name (`mlp-mixer models --weights`).",
            autocompletion=complete.weights,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The file to write; a folder for huggingface."
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="native, huggingface, google, bigvision, timm, mmpretrain, lavish619, keras ..."
        ),
    ],
    image_size: Annotated[
        str | None,
        typer.Option(help="HxW the weights were made for, where shapes leave it open."),
    ] = None,
    lineage: Annotated[
        str | None,
        typer.Option(help="Whose names IN uses, if it should not be recognised."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Round the numbers to fp32, bf16 or fp16.")
    ] = None,
    about: Annotated[
        str,
        typer.Option(
            metavar="JSON", help='To say of them, such as {"licence": "MIT"}.'
        ),
    ] = "{}",
    force: Annotated[
        bool,
        typer.Option("--force", help="Write even if the results change; says how."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT.")
    ] = False,
) -> int:
    """Convert weights between lineages, refusing what would change their results."""
    from ..errors import UserError
    from ..weights.convert import convert as run

    try:
        facts = dict(json.loads(about))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"cannot read --about {about!r} ({error}): expected a JSON object"
        ) from error
    how: dict[str, Any] = {
        "image_size": parse_size(image_size),
        "lineage": lineage,
        "dtype": dtype,
        "about": facts,
    }
    done = run(source, out, to, **how, force=force, overwrite=overwrite)
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{done.path}: {to} weights, read from {source} ({done.lineage})")
    return 0


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "224" or "224x320" (height x width) as numbers; `UserError` for anything else."""
    from ..errors import UserError

    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})(?:[xX](\d{1,6}))?", text.strip())
    if match is None:
        raise UserError(
            f"cannot read the image size {text!r}: expected a side or HxW, such as 224 or 224x320"
        )
    return int(match[1]), int(match[2] or match[1])
