"""`mlp-mixer figures`: the weights of a Mixer as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import Key, OverwriteOut, WeightsOrBundled, or_bundled


def figures(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    checkpoint: WeightsOrBundled = None,
    key: Key = None,
    overwrite: OverwriteOut = False,
) -> int:
    """Draw Figures 5 to 7 of the paper from these weights.

    Writes token_units.png, token_units_all.png and embeddings.png.
    """
    from ..analysis.figures import weight_figures
    from ..analysis.token_units import to_png
    from ..files import refuse_to_replace, write_bytes
    from ..weights import load
    from .progress import counted

    source, _ = or_bundled(checkpoint)
    with counted("pictures", tell_end=False) as show:
        drawn = weight_figures(load(source, key=key).model, progress=show)
    pictures = {out / f"{name}.png": picture for name, picture in drawn.items()}
    if not overwrite:
        refuse_to_replace(*pictures)
    for path, picture in pictures.items():
        write_bytes(path, to_png(picture))
        print(path)
    return 0
