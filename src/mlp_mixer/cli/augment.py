"""`mlp-mixer augment`: a contact sheet of what training would see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import complete
from .arguments import OverwriteOut, Settings


def augment(
    data: Annotated[
        str,
        typer.Option(help="digits, fashion_mnist:PATH, cifar10:PATH, folder:PATH, ..."),
    ],
    out: Annotated[Path, typer.Option(help="The sheet, a .png or a small .jpg file.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe or config.json (default: the recipe named like the dataset, "
            "else photos).",
            autocompletion=complete.recipes,
        ),
    ] = None,
    settings: Settings = None,
    count: Annotated[
        int, typer.Option(min=1, help="How many training images: the rows.")
    ] = 8,
    variants: Annotated[
        int,
        typer.Option(min=1, help="How many epochs: the columns beside the original."),
    ] = 8,
    mix: Annotated[
        bool, typer.Option("--mix", help="Add rows of the first four batches, mixed.")
    ] = False,
    overwrite: OverwriteOut = False,
) -> int:
    """Draw training images beside what augmentation makes of them in the first epochs."""
    from ..analysis.token_units import to_jpeg, to_png, visible
    from ..files import refuse_to_replace, write_bytes
    from ..recipes import RECIPES
    from ..recipes.resolve import resolve_config
    from ..training.contact_sheet import contact_sheet

    if not overwrite:
        refuse_to_replace(out)
    # "cifar10:PATH" is augmented as the recipe cifar10 would.
    name = data.partition(":")[0]
    default = name if name in RECIPES else "photos"
    config, _ = resolve_config(recipe or default, data=data, settings=settings or ())
    sheet = contact_sheet(config, count=count, variants=variants, mix=mix)
    is_jpeg = out.suffix.lower() in (".jpg", ".jpeg")
    image = visible(sheet.image)
    write_bytes(out, to_jpeg(image) if is_jpeg else to_png(image))
    print(
        f"wrote {sheet.count} images of {data} with {variants} variants each to {out}"
    )
    return 0
