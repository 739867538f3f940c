"""`mlp-mixer finetune`: from weights to a classifier of other images."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import complete
from .train import FindBatchSize, Track, run_training

if TYPE_CHECKING:
    from ..training.config import TrainConfig

SCRATCH = "scratch"
_PRICE = (
    "without pretrained weights a Mixer needs many images: on 1,800 photos of ten classes it reached 32 % (README), "
    "and on CIFAR-10 the best published from scratch is 90.8 %, where B/16 fine-tuned from ImageNet has 96.7 %"
)


def finetune(
    weights: Annotated[
        str,
        typer.Argument(
            help="A file, a folder, a name (`mlp-mixer models --weights`); scratch if there are none.",
            autocompletion=complete.weights,
        ),
    ],
    data: Annotated[
        str, typer.Option(help="Labelled images: folder:PATH, cifar10:PATH, ...")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: runs/finetune-DATE-TIME)."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="auto, paper, or the name of a recipe.")
    ] = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE: train.epochs=2")
    ] = None,
    frozen: Annotated[
        bool,
        typer.Option("--frozen", help="Only a new head, on frozen features: seconds."),
    ] = False,
    sweep: Annotated[
        str | None,
        typer.Option(help="FIELD=A,B,C: one run each, the best on validation wins."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest saved state.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Train anew in a folder that holds a run."),
    ] = False,
    find_batch_size: FindBatchSize = False,
    track: Track = None,
) -> int:
    """Fine-tune weights of any lineage: a new head of zeros, rows kept for classes that
    the weights know by name.
    """
    from ..config import override
    from ..errors import UserError

    if weights == SCRATCH:
        if frozen:
            raise UserError(
                "--frozen needs weights whose features are good; name some, or train without --frozen"
            )
        print(_PRICE, file=sys.stderr)
    config = override(_settings(weights, data, recipe), settings or [])
    folder = out or Path("runs") / f"finetune-{time.strftime('%Y%m%d-%H%M%S')}"
    if frozen:
        if resume or sweep or find_batch_size or track:
            raise UserError(
                "--frozen takes seconds and no steps: leave out --resume, --sweep, --find-batch-size, --track"
            )
        return _frozen(config, folder, overwrite)
    how: dict[str, Any] = {
        "resume": resume,
        "overwrite": overwrite,
        "find_batch_size": find_batch_size,
        "track": track,
    }
    if sweep is None:
        return run_training(config, folder, **how)
    field, separator, values = sweep.partition("=")
    if not separator or not values:
        raise UserError(
            f"cannot read the sweep {sweep!r}: expected FIELD=A,B,C, such as optim.lr=0.003,0.01,0.03"
        )
    found = {}
    for value in values.split(","):
        run = folder / f"{field}={value}"
        if code := run_training(override(config, [f"{field}={value}"]), run, **how):
            return code
        found[run] = _validation(run)
    best = max(found, key=lambda run: found[run])
    print(f"best of {len(found)}: {best} (validation top-1 {100 * found[best]:.2f} %)")
    return 0


def _frozen(config: TrainConfig, folder: Path, overwrite: bool) -> int:
    from ..training.extras.linear_probe import fit_head
    from .console import percent

    best = fit_head(
        config,
        folder,
        overwrite=overwrite,
        report=lambda row: print(row["text"], file=sys.stderr),
    )
    accuracy = f" (validation top-1 {percent(best['top1'])})" if "top1" in best else ""
    print(f"best checkpoint: {folder / 'best.safetensors'}{accuracy}")
    return 0


def _settings(weights: str, data: str, recipe: str) -> TrainConfig:
    import torch

    from ..config import override
    from ..data import ArraySet
    from ..data.registry import open_dataset
    from ..errors import UserError
    from ..recipes import get_recipe
    from ..recipes.finetune import finetune_auto

    if recipe == "auto":
        images = open_dataset(data).train
        small = isinstance(images, ArraySet) and max(images.images.shape[1:3]) <= 64
        if weights == SCRATCH:
            scratch = (
                "fashion_mnist"
                if small and images.channels == 1
                else "cifar10"
                if small
                else "photos"
            )
            return override(get_recipe(scratch), [f"data.source={json.dumps(data)}"])
        return finetune_auto(
            weights, data, len(images), small=small, gpu=torch.cuda.is_available()
        )
    if weights == SCRATCH:
        raise UserError(
            f"{SCRATCH!r} goes with --recipe auto; or `mlp-mixer train RECIPE --data ...` with any other"
        )
    config = get_recipe("finetune_small" if recipe == "paper" else recipe)
    return override(
        config, [f"model.init={json.dumps(weights)}", f"data.source={json.dumps(data)}"]
    )


def _validation(run: Path) -> float:
    """The best validation accuracy of a finished run."""
    from ..training.journal import read_journal

    return max(
        float(row.get("top1", 0.0))
        for row in read_journal(run)
        if row.get("kind") == "eval"
    )
