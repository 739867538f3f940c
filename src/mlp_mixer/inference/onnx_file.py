"""A file that `export --to onnx` wrote, run by onnxruntime, without torch."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..config import from_dict
from ..errors import UserError
from ..files import PathLike
from ..images.preprocess import Preprocess
from .light_checkpoint import Array, LightCheckpoint

ENDING = ".onnx"

# Of exporting.reload, which carries the description under it.
_KEY = "mlp_mixer"


def is_export(source: object) -> bool:
    """Return whether a checkpoint is named as an ONNX file.

    Args:
        source: What takes the place of a checkpoint.
    """
    if not isinstance(source, (str, os.PathLike)):
        return False
    return str(source).lower().endswith(ENDING)


def read_onnx(source: PathLike) -> LightCheckpoint:
    """Read an ONNX file that this package exported.

    Args:
        source: The file.

    Raises:
        UserError: onnxruntime is not installed or refuses the file, or the file does not
            say how to prepare its images.
    """
    path = Path(source)
    session = _session(path)
    about = session.get_modelmeta().custom_metadata_map.get(_KEY)
    if about is None:
        raise UserError(
            f"{str(path)!r} does not say how to prepare its images: expected a file of "
            "`mlp-mixer export --to onnx`"
        )
    if any(output.name == "pre_logits" for output in session.get_outputs()):
        raise UserError(
            f"{str(path)!r} has no classifier and cannot name classes; fine-tune the "
            "checkpoint it was made from"
        )
    try:
        return _described(path, session, json.loads(about))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{str(path)!r} describes itself in a way that cannot be read ({reason}); "
            "export it again"
        ) from error


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"{str(path)!r} is run by onnxruntime, which is not installed: run pip "
            "install onnxruntime, or give the checkpoint it was made from"
        ) from error
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}; check the path")
    options = onnxruntime.SessionOptions()
    # Errors come as exceptions; the same again on stderr would be a second sentence.
    options.log_severity_level = 4
    # A thread that waits by spinning takes a core from whoever else computes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    # onnxruntime's errors have no common class.
    except Exception as error:
        reason = str(error).strip().rpartition("\n")[2][:200]
        raise UserError(
            f"onnxruntime cannot read {str(path)!r} ({reason}); export it again"
        ) from error


def _described(path: Path, session: Any, about: dict[str, Any]) -> LightCheckpoint:
    preprocess = from_dict(Preprocess, about["preprocess"])
    inside = about["normalization"] == "inside"
    (image,) = session.get_inputs()
    (logits,) = session.get_outputs()
    height, width = preprocess.image_size
    channels = preprocess.channels
    expected = [height, width, channels] if inside else [channels, height, width]
    if image.shape[1:] != expected:
        raise ValueError(f"its input is {image.shape}, and images become {expected}")
    if len(logits.shape) != 2 or not isinstance(logits.shape[1], int):
        raise ValueError(f"its output is {logits.shape}")
    classes = logits.shape[1]
    labels = tuple(map(str, about["labels"])) or None
    if labels is not None and len(labels) != classes:
        raise ValueError(f"it has {len(labels)} labels for {classes} classes")
    provenance = {"head": about["scores"]}
    if about.get("thresholds") is not None:
        provenance["thresholds"] = about["thresholds"]

    def run(images: Array) -> Array:
        (found,) = session.run(None, {image.name: images})
        return np.asarray(found, dtype=np.float32)

    return LightCheckpoint(
        run,
        preprocess.fit if inside else preprocess.array,
        classes,
        preprocess,
        labels,
        provenance,
        "onnxruntime",
        hashlib.sha256(path.read_bytes()).hexdigest()[:16],
    )
