"""`mlp-mixer figures`: what a Mixer's weights look like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .complete import WeightsOrBundled


def figures(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    checkpoint: WeightsOrBundled = None,
) -> int:
    """Draw token_units.png, token_units_all.png and embeddings.png: Figures 5 to 7 of
    the paper, of these weights.
    """
    from ..analysis.figures import weight_figures
    from ..analysis.token_units import to_png
    from ..files import make_folder, write_bytes
    from ..weights import load
    from ..weights.catalog import BUNDLED

    folder = make_folder(out)
    for name, picture in weight_figures(
        load(BUNDLED if checkpoint is None else checkpoint).model
    ).items():
        write_bytes(folder / f"{name}.png", to_png(picture))
        print(folder / f"{name}.png")
    return 0
