"""An export: written aside, answering for real images in its own runtime, compared, and
only then put in its place.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..config import to_dict
from ..errors import UserError, unknown
from ..files import PathLike, atomic_file, make_folder, write_json
from ..images.decode import decode_image, image_extensions
from ..images.preprocess import Preprocess
from ..weights import load
from ..weights.labels import class_numbers
from ..weights.lineages.timm_names import entry_point
from .reload import Array, answer, of_torch
from .targets import TARGETS, ExportedModel, ExportJob

ROW = ("runtime", "mib", "ms_batch_1", "ms_batch_8", "difference", "same_top1", "top1")
MOST_IMAGES = 256  # of a folder, evenly
# root mean square of the differences, in units of the standard deviation of the logits
INT8_TOLERANCE = 0.1
_REGISTER = "from mlp_mixer.compat.timm_models import register; register()"
_RUN = "; import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"


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
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write what `load` takes to `out` as `to`, a key of `TARGETS`; it appears only if
    its own runtime agrees.

    int8: matrix products in int8, for Mixers to onnx, or to openvino with `calibrate`,
        images to fix the ranges on.
    opset: of the ONNX graph, from 13 for a Mixer and from 18 for another family to 20,
        the default.
    preprocess: "inside": uint8 RGB (B, H, W, C) of the network's size comes in;
        "beside": float32 (B, C, H, W), which is all that timm and transformers take,
        and the default there. No graph resizes and crops as Pillow does: OUT.json says
        how, with class names and the kind of scores, and the export carries the same
        where it can.
    check: a folder of images to compare on, best one folder per class; else that of
        `calibrate`, else made-up ones.

    Returns plain values: `path`; `rows` of torch and the export: size in MiB,
        milliseconds per image in batches of 1
    and 8, largest difference of a logit, part of images with the same answer, accuracy
    or None; `images`; `notes`. `UserError`: wrong options, something is not installed,
    or the export answers otherwise; then nothing is written.
    """
    if to not in TARGETS:
        raise unknown("kind of export", to, TARGETS)
    target = TARGETS[to]
    out = Path(out)
    where = preprocess or ("inside" if target.suffix else "beside")
    needed = dict.fromkeys([*target.packages, *["onnxruntime"] * int8])
    missing = [
        package for package in needed if importlib.util.find_spec(package) is None
    ]
    there = out.is_file() or any(out.glob("*"))
    for wrong, sentence in (
        (
            where not in ("inside", "beside"),
            f"preprocess is {where!r}: expected inside or beside",
        ),
        (
            where == "inside" and not target.suffix,
            f"{to} takes prepared images only; leave --preprocess at beside",
        ),
        (
            (int8 or opset) and "onnx" not in target.packages,
            f"{to} has no --int8 and no --opset; use onnx or openvino",
        ),
        (
            int8 and to == "openvino" and not calibrate,
            "openvino needs images for int8; add --calibrate FOLDER",
        ),
        (
            calibrate and not int8,
            "--calibrate is for int8; add --int8, or use --check to compare on these images",
        ),
        (
            target.suffix and out.suffix != target.suffix,
            f"{to} makes a {target.suffix} file, got {str(out)!r}",
        ),
        (
            there
            and os.path.exists(source)  # noqa: PTH110
            and out.samefile(source),
            f"{str(out)!r} is the file to read",
        ),
        (
            there and not overwrite,
            f"{str(out)!r} exists; choose another name, or use --overwrite to replace it",
        ),
        (
            missing,
            f"{to} needs {' and '.join(missing)}; run pip install {' '.join(missing)}",
        ),
    ):
        if wrong:
            raise UserError(sentence)
    make_folder(out.parent)
    checkpoint = load(source)
    record = checkpoint.preprocess
    labels = list(checkpoint.labels or ())
    entry = entry_point(checkpoint.model.config)
    whole = ExportedModel(
        checkpoint.model, record if where == "inside" else None
    ).eval()
    pixels, truth, images = _pictures(check or calibrate, record, labels)
    x = whole.input(pixels, record)
    ranges = (
        whole.input(_pictures(calibrate, record, labels)[0], record)
        if calibrate and check
        else x
    )
    about = {
        "input": {"dtype": str(x.dtype), "shape": ["B", *x.shape[1:]]},
        "normalization": where,
    }
    about |= {
        "preprocess": to_dict(record),
        "labels": labels,
        "scores": checkpoint.provenance.get("head", "softmax"),
    }
    setup = _REGISTER if not target.suffix and entry and entry.needs_register else ""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / (out.name or "export")
        target.write(
            ExportJob(
                checkpoint,
                whole,
                json.dumps(about, ensure_ascii=False),
                int8,
                ranges,
                opset,
            ),
            made,
        )
        folder, place = (Path(scratch), out.parent) if target.suffix else (made, out)
        theirs = _answers(to, made, x, setup) | {
            "bytes": sum(file.stat().st_size for file in folder.iterdir())
        }
        ours = answer(of_torch(whole), x) | {"runtime": f"torch {torch.__version__}"}
        ours |= {"bytes": sum(tensor.nbytes for tensor in whole.state_dict().values())}
        _judge(ours["logits"], theirs, target.tolerance, int8)
        assert (
            not labels
            or not str(theirs["about"])
            or json.loads(str(theirs["about"]))["labels"] == labels
        )
        rows = [_row(side, ours["logits"], truth) for side in (ours, theirs)]
        if target.suffix:
            write_json(
                folder / f"{out.name}.json",
                about | {"measured": rows[1], "measured_on": images},
            )
        for path in sorted(
            folder.iterdir(), key=lambda path: path == made
        ):  # the export itself comes last
            with path.open("rb") as data, atomic_file(place / path.name) as file:
                shutil.copyfileobj(data, file)
    notes = [
        target.note,
        f"timm lacks this size; whoever reads the folder runs first: {setup}"
        if setup
        else "",
    ]
    if calibrate and to == "onnx":
        notes.append(
            "int8 in onnx finds ranges as images come: faster and more exact, so yours were only compared on"
        )
    return {
        "path": str(out),
        "rows": rows,
        "images": images,
        "notes": [note for note in notes if note],
    }


def _pictures(
    folder: PathLike | None, record: Preprocess, labels: Sequence[str]
) -> tuple[Array, Array | None, str]:
    """uint8 (N, H, W, C) of the network's size; their classes, if their folders are
    classes; whence, in words.
    """
    if folder is None:
        from sklearn.datasets import load_digits

        shape = (8, *record.image_size, record.channels)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        small = [
            Image.fromarray((15.9 * digit).astype(np.uint8))
            for digit in load_digits().images[:8]
        ]
        digits = np.stack(
            [np.asarray(image.resize(record.image_size[::-1])) for image in small]
        )
        return (
            np.concatenate([noise, np.broadcast_to(digits[..., None], shape)]),
            None,
            "8 of noise and 8 digits",
        )
    root = Path(
        folder
    ).resolve()  # whose name alone is told: the folders above are nobody's business
    files = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in image_extensions()
    ]
    if not files:
        raise UserError(
            f"there are no images in {str(folder)!r}; give a folder of pictures, best one folder per class"
        )
    some = [
        files[k * len(files) // n]
        for n in [min(len(files), MOST_IMAGES)]
        for k in range(n)
    ]
    pixels = np.stack(
        [record.fit(decode_image(path, channels=record.channels)) for path in some]
    )
    known = class_numbers(labels)
    truth = [known[path.parent.name] for path in some if path.parent.name in known]
    return (
        pixels,
        np.array(truth) if len(truth) == len(some) else None,
        f"{len(some)} of {len(files)} in {root.name}",
    )


def _answers(to: str, export: Path, images: Array, setup: str) -> dict[str, Any]:
    """What reload.py has to say of an export, from a new process; `UserError` if it
    ends badly.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "images.npy"
        got = Path(folder) / "answers.npz"
        np.save(given, images)
        program = [
            *(["-c", setup + _RUN] if setup else []),
            str(Path(__file__).with_name("reload.py")),
        ]
        env = os.environ | {
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "HF_HUB_OFFLINE": "1",
        }
        command = [
            sys.executable,
            "-P",
            *program,
            to,
            str(export),
            str(given),
            str(got),
        ]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[
                -1
            ][:300]
            raise UserError(
                f"the export to {to} cannot be read back, so nothing was written: {said}; try another kind"
            )
        with np.load(got) as found:
            return dict(found)


def _judge(ours: Array, theirs: dict[str, Any], tolerance: float, int8: bool) -> None:
    """`UserError` if logits are further apart than `tolerance` (see `Target`), in int8
    on average `INT8_TOLERANCE`.
    """
    apart = np.abs(np.subtract(theirs["logits"], ours, dtype=float))
    measured = apart.max()
    allowed = tolerance * max(1, np.abs(ours).max())
    if int8:
        measured = np.sqrt(np.mean(apart**2))
        allowed = INT8_TOLERANCE * ours.std()
    if not measured <= allowed:
        raise UserError(
            f"{theirs['runtime']} answers otherwise than torch, so nothing was written: its logits differ by "
            f"{measured:.1e} where {allowed:.1e} is accepted; export {'without int8' if int8 else 'to another kind'}"
        )


def _row(side: dict[str, Any], ours: Array, truth: Array | None) -> dict[str, Any]:
    best = side["logits"].argmax(1)
    size = side["bytes"] / 2**20
    near = (
        float(np.abs(side["logits"] - ours).max()),
        float((best == ours.argmax(1)).mean()),
    )
    top1 = None if truth is None else float((best == truth).mean())
    return dict(
        zip(
            ROW,
            (str(side["runtime"]), size, *map(float, side["ms"]), *near, top1),
            strict=True,
        )
    )
