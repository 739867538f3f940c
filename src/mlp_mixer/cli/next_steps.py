"""Say what comes next: the lines that a verb prints on stderr when it is done.

Each line holds commands that can be copied as they are.
"""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

Command = tuple[str, ...]
"""The words after `mlp-mixer`."""


def after_training(run: Path, data: str, *, tested: bool = False) -> list[Command]:
    """Return what comes after `train` and `finetune`: the test number, and the page.

    Args:
        run: The folder of the run.
        data: The images that it was trained on, as `--data` takes them.
        tested: Whether the test number was printed already.
    """
    report = ("report", str(run))
    if tested:
        return [report]
    return [("evaluate", str(run), "--data", data), report]


def after_pretraining(run: Path, labelled: str | None) -> list[Command]:
    """Return what comes after `pretrain`: a classifier on its features.

    Args:
        run: The folder of the run.
        labelled: Its images, as typed, if they have labels.
    """
    data = labelled or "folder:LABELLED"
    return [("finetune", str(run), "--data", data, "--out", f"{run}-finetuned")]


def after_evaluation(checkpoint: str | None, data: str, own: bool) -> list[Command]:
    """Return what comes after `evaluate`: the page, where a run was evaluated.

    Args:
        checkpoint: As typed; None is the bundled model.
        data: The images, as typed.
        own: Whether they are those of the run, which `report` takes by itself.
    """
    # A checkpoint alone has no curves to show.
    if checkpoint is None or not (Path(checkpoint) / "metrics.jsonl").is_file():
        return []
    other = () if own else ("--data", data)
    return [("report", checkpoint, *other)]


def after_report(run: Path) -> list[Command]:
    """Return what comes after `report`: the network for others, and for people.

    Args:
        run: The folder of the run.
    """
    out = str(run / "model.onnx")
    return [("export", str(run), out, "--to", "onnx"), ("serve", str(run))]


def after_check(source: str) -> list[Command]:
    """Return what comes after `data check` without errors: training.

    Args:
        source: The images, as typed.
    """
    name = source
    if Path(source).is_dir():
        name = f"folder:{source}"
    word = Path(source.rpartition(":")[2]).resolve().stem or "photos"
    # A folder that holds a run would be refused.
    words = itertools.chain([word], (f"{word}-{k}" for k in itertools.count(2)))
    places = (Path("runs") / one for one in words)
    out = next(place for place in places if not place.exists())
    return [("finetune", "--data", name, "--out", str(out))]


def after_export(checkpoint: str, out: Path, to: str) -> tuple[list[Command], str]:
    """Return what comes after `export`: what uses the file, or a server of ours.

    Args:
        checkpoint: What was exported, as typed.
        out: The file or the folder that was written.
        to: What it is for, a choice of `--to`.

    Returns:
        Commands of ours, and what else there is to do or to know.
    """
    if to == "web":
        return [], f"open {out / 'index.html'} in a browser"
    if to == "triton":
        return [], f"tritonserver --model-repository={shlex.quote(str(out))}"
    described = Path(f"{out}.json")
    remark = ""
    if described.is_file():
        remark = f"{described} says how a picture becomes the input of {out.name}"
    return [("serve", checkpoint)], remark


def print_next(commands: Sequence[Command], remark: str = "") -> None:
    """Print commands as one line on stderr; nothing without any.

    Args:
        commands: The words of each, without the name of the program.
        remark: What else there is to know, at the end of the line.
    """
    lines = [shlex.join(("mlp-mixer", *command)) for command in commands]
    parts = [*lines, remark] if remark else lines
    if parts:
        print(f"next: {'; '.join(parts)}", file=sys.stderr)
