"""timm's `pretrained_cfg` as our `Preprocess` record, and back.

timm keeps the evaluation transform of every model in that dictionary; `config.json` of
a folder for the Hugging Face hub holds it too.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...errors import UserError, unknown
from ...images.preprocess import Preprocess

# timm's key -> our field, and timm's words -> ours
_WORDS: dict[str, tuple[str, dict[str, str]]] = {
    "interpolation": (
        "interpolation",
        {
            "bicubic": "bicubic",
            "bilinear": "bilinear",
            "nearest": "nearest",
            "box": "area",
        },
    ),
    "crop_mode": ("resize", {"center": "resmall", "squash": "resize"}),
}


def read_transform(cfg: Mapping[str, Any], usual: Preprocess) -> Preprocess:
    """Return the transform that timm's record states.

    Args:
        cfg: timm's `pretrained_cfg`.
        usual: The transform where nothing is stated.

    Returns:
        `usual` with what the record states.

    Raises:
        UserError: The record states something that `Preprocess` cannot do.
    """
    fields: dict[str, Any] = {}
    for key, (our_field, words) in _WORDS.items():
        word = cfg.get(key)
        if not word:
            continue
        if not isinstance(word, str) or word not in words:
            came = reprlib.repr(word).strip("'")
            raise unknown(f"{key} in config.json", came, words)
        fields[our_field] = words[word]
    if _is_number(cfg.get("crop_pct")):
        fields["crop_pct"] = float(cfg["crop_pct"])
    for name in ("mean", "std"):
        if cfg.get(name):
            fields[name] = _each_channel(name, cfg[name], usual.channels)
    return replace(usual, **fields)


def write_transform(preprocess: Preprocess) -> tuple[dict[str, Any], list[str]]:
    """Return the nearest transform that timm's record can state.

    Args:
        preprocess: The exact one.

    Returns:
        The fields of `pretrained_cfg`, and a phrase for each thing that timm then does
        otherwise.
    """
    fixed = preprocess.resize == "none"
    squash = preprocess.resize == "resize"
    sides = set(preprocess.image_size)
    changes = []
    if preprocess.resampler != "pillow":
        changes.append(
            "they scale with Pillow, which smooths first, and not as "
            f"{preprocess.resampler} does"
        )
    if fixed:
        changes.append("they scale images of other sizes, which are refused here")
    elif not squash and len(sides) > 1:
        changes.append(
            "they round the longer side of the scaled image, which is cut off to whole "
            "pixels here"
        )
    stated: dict[str, Any] = {
        "interpolation": preprocess.interpolation.replace("area", "box"),
        "crop_mode": "squash" if squash else "center",
        "crop_pct": 1.0 if fixed else preprocess.crop_pct,
        "mean": preprocess.mean,
        "std": preprocess.std,
    }
    return stated, changes


def _each_channel(name: str, values: Any, channels: int) -> Any:
    """Check a mean or a standard deviation, for one channel or for all."""
    if not isinstance(values, list) or not all(map(_is_number, values)):
        raise UserError(
            f"{name} in config.json is {reprlib.repr(values)}, expected a list of "
            "numbers"
        )
    if len(values) in (1, channels):
        return values
    # A gray model beside the three numbers of RGB: timm takes their mean, too.
    return (sum(values) / len(values),)


def _is_number(value: Any) -> bool:
    # Beyond 2**53 float() may round or overflow: no transform has such numbers.
    return isinstance(value, (int, float)) and abs(value) < 2**53
