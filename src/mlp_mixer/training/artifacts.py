"""What a run leaves in its folder: settings, split, and checkpoints with their numbers."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import recorded, to_dict
from ..evaluation import evaluate
from ..evaluation.abstain import choose_min_score
from ..files import possible, write_bytes, write_json
from ..machine import environment
from ..models import IsotropicMlp
from ..untrusted.sizes import read_bytes
from ..weights import save
from ..weights.scores import MinScore
from .extras.several_labels import measure_labels, origin_of_labels
from .journal import JournalRow
from .run import Run

_SPLIT = "split.csv"
_COLUMNS = ("path", "label", "split")
# Images of a training set, beyond which a list would be longer than anyone reads.
_MOST_LISTED = 200_000
_MOST_BYTES = 2**27  # of such a list


def holds_run(out: Path) -> bool:
    """Return whether a folder holds a run.

    Args:
        out: The folder; it need not exist.

    Raises:
        UserError: No folder can have this name.
    """
    return possible(out / "config.json").exists()


def write_settings(run: Run, out: Path) -> None:
    """Write `config.json`: the configuration, the machine and the notes.

    Args:
        run: The run.
        out: Its folder.
    """
    settings = {
        "config": recorded(to_dict(run.config)),
        "environment": environment(run.device),
        "precision": run.precision,
        "notes": list(run.notes),
    }
    write_json(out / "config.json", settings)


def write_split(run: Run, out: Path) -> None:
    """Write `split.csv`: path, label and split of each image, as `list:` reads them.

    Nothing is written if the dataset came with its splits, or is too large to list.

    Args:
        run: The run.
        out: Its folder.
    """
    source = run.source
    split_off_test = source.held_out is not None
    split_off_val = run.val is not None and source.val is None
    if not (split_off_test or split_off_val) or len(source.train) > _MOST_LISTED:
        return
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    several = source.train.targets is not None
    path, label, split = _COLUMNS
    table.writerow([path, "labels" if several else label, split])
    for split, images in (
        ("train", run.train),
        ("val", run.val),
        ("test", source.test),
    ):
        if images is None:
            continue
        for index in range(len(images)):
            label = images.label_text(index)
            table.writerow([images.name(index), label, split])
    # File names are bytes on Linux; those that are not UTF-8 are written as they are.
    write_bytes(out / _SPLIT, text.getvalue().encode("utf-8", "surrogateescape"))


def read_split(out: Path) -> set[tuple[str, str]]:
    """Return the names and labels of the images that `write_split` wrote.

    Args:
        out: The folder of the run; its file may be anybody's by now.

    Returns:
        Path and label of each image; nothing where there is no such file.
    """
    found = set()
    # As csv.writer wrote it; whatever else it holds is no image of this run.
    with contextlib.suppress(OSError, ValueError, csv.Error):
        data = read_bytes(out / _SPLIT, _MOST_BYTES)
        text = io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")
        for row in csv.reader(text):
            if len(row) == len(_COLUMNS):
                found.add((row[0], row[1]))
    return found - {("path", "label"), ("path", "labels")}


def measure(run: Run, model: IsotropicMlp) -> tuple[dict[str, Any], MinScore | None]:
    """Evaluate a network on the validation split.

    Args:
        run: The run.
        model: The network, on the run's device.

    Returns:
        "top1" and "top5" (fractions of the images), "loss" and "n", and
        "balanced_top1" where the run corrects an imbalance; with several labels per
        image "map", "loss", "n" and "thresholds"; {} without validation images. And the
        lowest score of an answer, if they can choose one.
    """
    if run.val is None:
        return {}, None
    if run.val.targets is not None:
        return measure_labels(model, run.val, run.preprocess, run.workers), None
    result = evaluate(
        model,
        run.val,
        run.preprocess,
        workers=run.workers,
        head=run.config.train.loss,
    )
    measured = {
        "top1": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "n": result.n,
    }
    if run.measure == "balanced_top1":
        measured["balanced_top1"] = result.balanced_top1
    right = result.predictions == result.labels
    return measured, choose_min_score(result.scores, right)


def write_checkpoints(
    run: Run,
    model: IsotropicMlp,
    out: Path,
    names: Sequence[str],
    row: JournalRow,
    min_score: MinScore | None = None,
) -> None:
    """Write a network as `NAME.safetensors`, with where it comes from and its numbers.

    Args:
        run: The run.
        model: The network, with whole weights.
        out: The folder of the run.
        names: "last", "best" or both.
        row: What the network measured, a row of kind "eval".
        min_score: The lowest score of an answer, if validation images chose one.
    """
    measured = {}
    for key, value in row.items():
        if key not in ("kind", "thresholds"):
            measured[key] = value
    provenance = run.provenance() | {"measured": measured}
    if run.task is None and run.train.targets is not None:
        provenance |= origin_of_labels(len(run.train.classes), row)
    if min_score is not None:
        provenance["min_score"] = to_dict(min_score)
    for name in names:
        save(
            out / f"{name}.safetensors",
            model,
            preprocess=run.preprocess,
            labels=None if run.task else run.train.classes,
            provenance=provenance,
        )
