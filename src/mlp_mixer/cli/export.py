"""`mlp-mixer export`: a checkpoint for other runtimes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..intervals import short_accuracy
from .arguments import Json, Key, Labels, OverwriteFile, Weights, with_key
from .console import percent, print_json, print_table


def export(
    checkpoint: Weights,
    out: Annotated[
        Path,
        typer.Argument(
            help="The file to write; a folder for timm, hf, web and triton."
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="onnx, openvino, torch-export, aoti, executorch, timm, hf, web or triton."
        ),
    ],
    key: Key = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Matrix products in int8 (onnx, openvino, web)."),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="An older word for --check, beside --int8."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Of ONNX: 13 to 20; TensorRT 8 takes up to 17.")
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            help="inside (default): the graph normalises uint8 images; beside: you pass "
            "normalised floats."
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="A folder of images to compare on, best one per class."),
    ] = None,
    labels: Labels = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="For web: the npm package onnxruntime-web, its archive or a folder; by "
            "default it is downloaded once."
        ),
    ] = None,
    overwrite: OverwriteFile = False,
    as_json: Json = False,
) -> int:
    """Write a checkpoint for another runtime.

    The runtime reads the file back, and its answers are compared with torch's.
    """
    from .. import api
    from .next_steps import after_export, print_next
    from .progress import counted

    with counted("steps of the export", tell_end=False) as show:
        report = api.export(
            with_key(checkpoint, key),
            out,
            to,
            int8=int8,
            calibrate=calibrate,
            opset=opset,
            preprocess=preprocess,
            check=check,
            labels=labels,
            overwrite=overwrite,
            runtime=runtime,
            progress=show,
        )
    if as_json:
        print_json(report)
        return 0
    # On stderr, so that a script may read the table.
    for note in report["notes"]:
        print(f"note: {note}", file=sys.stderr)
    headings = {
        "runtime": "left",
        "MiB": "right",
        "ms/image, 1 at once": "right",
        "8 at once": "right",
        "largest difference": "right",
        "same top-1": "right",
        "accuracy [95 %]": "right",
        "n": "right",
    }
    print_table(headings, [_texts(row) for row in report["rows"]])
    print(f"{out}: compared with torch on {report['images']}")
    print_next(*after_export(checkpoint, out, to))
    return 0


def _texts(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["runtime"],
        f"{row['mib']:.2f}",
        f"{row['ms_batch_1']:.3g}",
        f"{row['ms_batch_8']:.3g}",
        f"{row['difference']:.1e}",
        percent(row["same_top1"]),
        "" if row["top1"] is None else short_accuracy(row["top1"], row["top1_n"]),
        str(row["top1_n"] or ""),
    )
