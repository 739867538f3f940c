"""Write an export, compare it with torch, and only then put it in its place."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import to_dict
from ..data.seen import SeenImages
from ..errors import UserError, unknown
from ..files import PathLike, atomic_file, make_folder, write_json
from ..weights import Checkpoint, load
from ..weights.given_labels import GivenLabels
from ..weights.lineages.timm_names import entry_point
from ..weights.scores import score_kind
from .comparison import check_difference, check_images, measures, run_export
from .reload import Array, answer, of_torch
from .targets import TARGETS, ExportedModel, ExportJob, Target
from .web import find_runtime

# Weights and images are read, the export is written, run by its runtime, and compared.
_STEPS = 4
_IMAGES_IN_DOUBLE = 8

_REGISTER = "from mlp_mixer.compat.timm_models import register; register()"


def export(
    source: PathLike,
    out: PathLike,
    to: str,
    *,
    int8: bool = False,
    calibrate: PathLike | None = None,
    opset: int | None = None,
    preprocess: str | None = None,
    check: PathLike | None = None,
    labels: GivenLabels | None = None,
    overwrite: bool = False,
    runtime: PathLike | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Export a checkpoint for another runtime.

    The export appears at `out` only if its own runtime gives torch's answers. No graph
    resizes and crops as Pillow does: OUT.json says how, with the names of the classes
    and the kind of scores, and the export carries the same where it can.

    Args:
        source: A checkpoint: a file, a folder or a name, as `load` takes it.
        out: The file to write; a folder for "timm", "hf", "web" and "triton".
        to: The kind of export, a key of `TARGETS`.
        int8: Compute matrix products in int8, of Mixers. Ranges of activations are
            found as they come, so no images are needed.
        calibrate: An older word for `check`, beside int8.
        opset: The version of the ONNX graph: from 13 for a Mixer, from 18 for another
            family, to 20, the default.
        preprocess: "inside": the export takes uint8 RGB (B, H, W, C) of the network's
            size. "beside": it takes the network's float32 (B, C, H, W), which is all
            that timm and transformers take, and the default there.
        check: A folder of images to compare on, best one folder per class. By default
            images are made up.
        labels: The names of the classes, as for `load`.
        overwrite: Replace what is at `out`.
        runtime: For "web", the npm package onnxruntime-web, as `web.find_runtime` takes
            it; by default it is downloaded once.
        progress: Is told how many steps of how many are done.

    Returns:
        `path`; `rows`, the measures of torch and of the export
        (`exporting.comparison.measures`); `images`, on which they were compared, in
        words; `notes`, sentences for the user.

    Raises:
        UserError: An option is wrong, a package is missing, or the export gives other
            answers than torch; then nothing is written.
    """
    if to not in TARGETS:
        raise unknown("kind of export", to, TARGETS)
    target = TARGETS[to]
    out = Path(out)
    prepared = target.is_folder and not target.inside
    where = preprocess or ("beside" if prepared else "inside")
    _check_options(to, target, where, int8=int8, calibrate=calibrate, opset=opset)
    if runtime is not None and to != "web":
        raise UserError(f"{to} has no --runtime; that is of web")
    _check_place(to, target, source, out, overwrite)
    _check_packages(to, target, int8)
    # Before the weights are read: it may have to be downloaded.
    browser = find_runtime(runtime) if to == "web" else None
    make_folder(out.parent)

    progress(0, _STEPS)
    checkpoint = load(source, labels=labels)
    record = checkpoint.preprocess
    names = list(checkpoint.labels or ())
    network = ExportedModel(checkpoint.model, record if where == "inside" else None)
    network.eval()
    seen = SeenImages.from_provenance(checkpoint.provenance)
    images = check_images(check or calibrate, record, names, seen)
    # A folder's name is one label: it cannot judge answers of several.
    if checkpoint.thresholds is not None:
        images = images._replace(classes=None)
    x = network.input(images.pixels, record)
    about = _description(checkpoint, where, x)
    carried = json.dumps(about, ensure_ascii=False)
    job = ExportJob(checkpoint, network, carried, int8, x, opset, browser)
    setup = _timm_setup(checkpoint, target)

    progress(1, _STEPS)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / (out.name or "export")
        target.write(job, made)
        progress(2, _STEPS)
        folder = made if target.is_folder else Path(scratch)
        sizes = [file.stat().st_size for file in _files_in(folder)]
        theirs = run_export(to, made, x, setup) | {"bytes": sum(sizes)}
        progress(3, _STEPS)
        ours = _run_torch(network, x)
        check_difference(
            ours["logits"],
            theirs,
            target.tolerance,
            int8,
            rounding=_rounding(network, x[:_IMAGES_IN_DOUBLE], ours["logits"]),
        )
        _check_labels(theirs, names)
        rows = [measures(side, ours["logits"], images) for side in (ours, theirs)]
        if target.is_folder:
            _move(folder, out, last=made)
        else:
            measured = {"measured": rows[1], "measured_on": images.described}
            write_json(folder / f"{out.name}.json", about | measured)
            _move(folder, out.parent, last=made)
    progress(_STEPS, _STEPS)
    notes = _notes(target, setup)
    if calibrate:
        used = "not read" if check else "used for the comparison only"
        notes.append(
            "int8 finds the ranges of what it computes as it comes, so --calibrate is "
            f"--check by now: its images were {used}"
        )
    learnt_from = len(images.pixels) - len(images.unseen)
    if learnt_from and images.classes is not None:
        notes.append(
            f"{learnt_from} of the {len(images.pixels)} images were learnt from and do "
            "not count in the accuracy"
        )
    return {"path": str(out), "rows": rows, "images": images.described, "notes": notes}


def _check_options(
    to: str,
    target: Target,
    where: str,
    *,
    int8: bool,
    calibrate: PathLike | None,
    opset: int | None,
) -> None:
    """Raise a `UserError` for options that do not go together."""
    if where not in ("inside", "beside"):
        raise UserError(f"preprocess is {where!r}: expected inside or beside")
    if where == "inside" and target.is_folder and not target.inside:
        raise UserError(
            f"{to} takes prepared images only; leave --preprocess at beside"
        )
    if (int8 or opset) and not target.is_onnx:
        raise UserError(f"{to} has no --int8 and no --opset; use onnx or openvino")
    if calibrate and not int8:
        raise UserError(
            "--calibrate is for int8; add --int8, or use --check to compare on these "
            "images"
        )


def _check_place(
    to: str, target: Target, source: PathLike, out: Path, overwrite: bool
) -> None:
    """Raise a `UserError` if `out` has another ending, or something is there."""
    if target.suffix and out.suffix != target.suffix:
        raise UserError(f"{to} makes a {target.suffix} file, got {str(out)!r}")
    is_there = out.is_file() or any(out.glob("*"))
    if not is_there:
        return
    # `source` may be a name and not a path; such a file does not exist.
    if os.path.exists(source) and out.samefile(source):  # noqa: PTH110
        raise UserError(f"{str(out)!r} is the file to read")
    if not overwrite:
        raise UserError(
            f"{str(out)!r} exists; choose another name, or use --overwrite to replace it"
        )


def _check_packages(to: str, target: Target, int8: bool) -> None:
    """Raise a `UserError` for packages that are not installed."""
    # onnxruntime's tools quantise what it runs itself, here, in browsers and in Triton.
    quantiser = ["onnxruntime"] if int8 and to != "openvino" else []
    needed = dict.fromkeys([*target.packages, *quantiser])
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{to} needs {' and '.join(missing)}; run pip install {' '.join(missing)}"
        )


def _description(checkpoint: Checkpoint, where: str, x: Array) -> dict[str, Any]:
    """Return what a program must know to use the export."""
    description: dict[str, Any] = {
        "input": {"dtype": str(x.dtype), "shape": ["B", *x.shape[1:]]},
        "normalization": where,
        "preprocess": to_dict(checkpoint.preprocess),
        "labels": list(checkpoint.labels or ()),
        "scores": score_kind(checkpoint.provenance, checkpoint.model.num_classes),
    }
    # With several labels per picture a class is answered from its threshold on.
    if checkpoint.thresholds is not None:
        description["thresholds"] = list(checkpoint.thresholds)
    return description


def _timm_setup(checkpoint: Checkpoint, target: Target) -> str:
    """Return the Python that makes timm know a size which it lacks; else ""."""
    entry = entry_point(checkpoint.model.config)
    if "timm" in target.packages and entry and entry.needs_register:
        return _REGISTER
    return ""


def _run_torch(network: ExportedModel, x: Array) -> dict[str, Any]:
    """Return torch's answers, as `run_export` returns those of the export."""
    tensors = network.state_dict().values()
    found = answer(of_torch(network), x)
    found["runtime"] = f"torch {torch.__version__}"
    found["bytes"] = sum(tensor.nbytes for tensor in tensors)
    return found


def _rounding(network: ExportedModel, x: Array, logits: Array) -> float:
    """Return how far torch's logits of the first images are from the exact ones."""
    exact = copy.deepcopy(network.model).double()
    images = torch.from_numpy(x)
    if network.inside is not None:
        images = network.inside.normalize(images.permute(0, 3, 1, 2))
    with torch.inference_mode():
        found = exact(images.double()).numpy()
    return float(np.abs(found - logits[: len(x)]).max())


def _check_labels(theirs: dict[str, Any], labels: list[str]) -> None:
    """Check that the export carries the names of the classes, if its kind can."""
    about = str(theirs["about"])
    if labels and about:
        assert json.loads(about)["labels"] == labels


def _move(folder: Path, place: Path, last: Path) -> None:
    """Put all files of a folder into another one, each of them atomically."""
    # The export itself comes last: where it is, the files beside it are too.
    for path in sorted(_files_in(folder), key=lambda path: path == last):
        target = place / path.relative_to(folder)
        with path.open("rb") as data, atomic_file(target) as file:
            shutil.copyfileobj(data, file)


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _notes(target: Target, setup: str) -> list[str]:
    """Return what the user should know of this export."""
    notes = []
    if target.note:
        notes.append(target.note)
    if setup:
        notes.append(
            f"timm lacks this size; before reading the folder, run in Python: {setup}"
        )
    return notes
