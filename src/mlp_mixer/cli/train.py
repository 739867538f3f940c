"""`mlp-mixer train`: from a recipe to a checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import complete
from .console import percent, stderr
from .progress import Progress

if TYPE_CHECKING:
    from ..training.config import TrainConfig

FindBatchSize = Annotated[
    bool,
    typer.Option(
        "--find-batch-size",
        help="Compute each batch in the parts that fit and are fastest here.",
    ),
]
Track = Annotated[
    str | None,
    typer.Option(help="Also follow the run in tensorboard, wandb or trackio."),
]


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe (see `mlp-mixer recipes`), or the config.json of a run.",
            autocompletion=complete.recipes,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="digits, fashion_mnist:PATH, cifar10:PATH, folder:PATH, ..."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: runs/RECIPE-DATE-TIME)."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE: train.epochs=2")
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="Longer or shorter than the recipe, warm-up and all."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Another batch; the learning rate is scaled with it."),
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
    """Train a model; leaves best.safetensors, last.safetensors, metrics.jsonl,
    config.json and state/ in --out.
    """
    config, notes = resolve_config(recipe, data, settings or [], epochs, batch_size)
    folder = (
        out
        or Path("runs") / f"{config.recipe or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    how = {"resume": resume, "overwrite": overwrite, "find_batch_size": find_batch_size}
    return run_training(config, folder, track=track, notes=notes, **how)


def run_training(
    config: TrainConfig, folder: Path, *, track: str | None, **how: Any
) -> int:
    """Train, show how it goes, and give the exit code; of several processes the first
    one speaks.
    """
    from ..devices import keep_memory
    from ..training import Interrupted
    from ..training import train as start
    from ..training.track import tracking

    keep_memory()
    speaks = os.environ.get("RANK", "0") == "0"
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(stderr(), quiet=not speaks))
        follow = (
            stack.enter_context(tracking(track, config, folder))
            if track and speaks
            else None
        )

        def report(row: dict[str, Any]) -> None:
            progress(row)
            if follow:
                follow(row)

        try:
            best = start(config, folder, report=report, **how)
        except Interrupted as stopped:
            command = shlex.join(
                [
                    "mlp-mixer",
                    "train",
                    str(folder / "config.json"),
                    "--out",
                    str(folder),
                    "--resume",
                ]
            )
            progress.note(
                f"stopped at step {stopped.step}, the state is saved; go on with: {command}"
            )
            return 128 + stopped.signal_number
    if speaks:
        accuracy = (
            f", validation top-1 {percent(best['top1'])}" if "top1" in best else ""
        )
        print(
            f"best checkpoint: {folder / 'best.safetensors'} (epoch {best['epoch']:g}{accuracy})"
        )
    return 0


def resolve_config(
    recipe: str,
    data: str | None,
    settings: list[str],
    epochs: float | None = None,
    batch_size: int | None = None,
) -> tuple[TrainConfig, tuple[str, ...]]:
    """The recipe (or a run's config.json) with length, batch, `--data` and `--set`
    applied, in this order; notes.
    """
    from ..config import override
    from ..recipes import get_recipe
    from ..recipes.rescale import rescale

    config = (
        _read_config(Path(recipe)) if recipe.endswith(".json") else get_recipe(recipe)
    )
    config, notes = rescale(config, epochs=epochs, batch_size=batch_size)
    given = [f"data.source={json.dumps(data)}"] if data is not None else []
    return override(config, [*given, *settings]), notes


def _read_config(path: Path) -> TrainConfig:
    from ..config import from_dict
    from ..errors import UserError
    from ..training.config import TrainConfig

    try:
        values = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"{error}"
        raise UserError(
            f"cannot read the configuration {str(path)!r}: {reason}; give a run's config.json"
        ) from error
    return from_dict(TrainConfig, values)
