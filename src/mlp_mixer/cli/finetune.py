"""`mlp-mixer finetune`: from weights to a classifier of other images."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .train import FindBatchSize, Track, run_training

if TYPE_CHECKING:
    from ..train.config import TrainConfig


def finetune(
    weights: Annotated[str, typer.Argument(help="A file, a folder, or a name (`mlp-mixer models --weights`).")],
    data: Annotated[str, typer.Option(help="Labelled images: folder:PATH, cifar10:PATH, ...")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/finetune-DATE-TIME).")] = None,
    recipe: Annotated[str, typer.Option(help="auto, paper, or the name of a recipe.")] = "auto",
    settings: Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE: train.epochs=2")] = None,
    sweep: Annotated[str | None, typer.Option(help="FIELD=A,B,C: one run each, the best on validation wins.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest saved state.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train anew in a folder that holds a run.")] = False,
    find_batch_size: FindBatchSize = False,
    track: Track = None,
) -> int:
    """Fine-tune weights of any lineage: a new head of zeros, rows kept for classes that the weights know by name."""
    from ..config import override
    from ..errors import UserError

    config = override(_settings(weights, data, recipe), settings or [])
    folder = out or Path("runs") / f"finetune-{time.strftime('%Y%m%d-%H%M%S')}"
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "find_batch_size": find_batch_size, "track": track}
    if sweep is None:
        return run_training(config, folder, **how)
    field, separator, values = sweep.partition("=")
    if not separator or not values:
        raise UserError(f"cannot read the sweep {sweep!r}: expected FIELD=A,B,C, such as optim.lr=0.003,0.01,0.03")
    found = {}
    for value in values.split(","):
        run = folder / f"{field}={value}"
        if code := run_training(override(config, [f"{field}={value}"]), run, **how):
            return code
        found[run] = _validation(run)
    best = max(found, key=lambda run: found[run])
    print(f"best of {len(found)}: {best} (validation top-1 {100 * found[best]:.2f} %)")
    return 0


def _settings(weights: str, data: str, recipe: str) -> TrainConfig:
    import torch

    from ..config import override
    from ..data import ArraySet
    from ..data.sources import open_source
    from ..recipes import get_recipe
    from ..recipes.finetune import finetune_auto

    if recipe == "auto":
        images = open_source(data).train
        small = isinstance(images, ArraySet) and max(images.images.shape[1:3]) <= 64
        return finetune_auto(weights, data, len(images), small=small, gpu=torch.cuda.is_available())
    config = get_recipe("finetune_small" if recipe == "paper" else recipe)
    return override(config, [f"model.init={json.dumps(weights)}", f"data.source={json.dumps(data)}"])


def _validation(run: Path) -> float:
    """The best validation accuracy of a finished run."""
    from ..train.journal import read_journal

    return max(float(row.get("top1", 0.0)) for row in read_journal(run) if row.get("kind") == "eval")
