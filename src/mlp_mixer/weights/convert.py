"""From one lineage's file to another's: the same numbers under other names, or a
refusal that says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, unknown
from ..files import PathLike, write_bytes
from ..models.families import need_mixer
from ..models.mixer import MixerConfig
from .checkpoint import StoredWeights, native_bytes
from .formats import containers
from .huggingface.hub import timm_obstacles, write_folder
from .lineages import timm_families, translate
from .lineages.tables import LINEAGES, MMPRETRAIN, Lineage
from .loading import read_weights

TARGETS = ("native", "huggingface", *LINEAGES)
"""What can be written: our own file, the folder of the Hugging Face convention, and
every lineage's file.
"""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LEFT_BEHIND = "stay behind: this kind of file has no place for them"


@dataclass(frozen=True)
class Conversion:
    """What was written where, whose it was, and what a reader should know about it."""

    path: Path
    lineage: str
    notes: tuple[str, ...]


def convert(
    source: PathLike,
    out: PathLike,
    to: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    lineage: str | None = None,
    dtype: str | None = None,
    about: Mapping[str, Any] | None = None,
    force: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Read weights of any lineage and write them as `to` (one of `TARGETS`); tensors
    keep their stored dtype.

    source, image_size, lineage: as for `load`. out: the file to write, or the folder
        for "huggingface".
    dtype: a key of `DTYPES`, to round the tensors to. about: more JSON for the
        provenance, such as {"licence": "MIT"}.
    force: write even if the other lineage would compute something else with these
        weights; the notes say what.
    overwrite: replace a file that is there.
    Raises `UserError` if the results would change, the suffix is not one of that
    lineage, or `out` exists.
    """
    target = Path(out)
    if to not in TARGETS:
        raise unknown("kind of checkpoint", to, TARGETS)
    if dtype and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    check_place(target, to, Path(source), overwrite)
    stored = read_weights(source, image_size=image_size, lineage=lineage)
    stored.provenance.update(about or {})
    if dtype:
        stored = replace(
            stored,
            tensors={name: x.to(DTYPES[dtype]) for name, x in stored.tensors.items()},
        )
        translate.check_numbers(
            stored.tensors, f"{str(source)!r} as {dtype}"
        )  # fp16 ends at 65,504
    if to == "native":
        write_bytes(target, native_bytes(stored))
        return Conversion(target, stored.lineage, ())
    reasons = _obstacles(stored, to)
    if reasons and not force:
        raise UserError(
            f"as {to} these weights would not give the same results: {'; '.join(reasons)}; "
            "use --force (force=True) to write them nevertheless"
        )
    notes = tuple(f"not the same results: {reason}" for reason in reasons)
    if to == "huggingface":
        return Conversion(write_folder(target, stored), stored.lineage, notes)
    write_bytes(target, _bytes(target, stored, LINEAGES[to]))
    lost = (
        "preprocessing and provenance"
        if to == "mmpretrain"
        else "class names, preprocessing and provenance"
    )
    return Conversion(target, stored.lineage, (*notes, f"{lost} {_LEFT_BEHIND}"))


def check_place(target: Path, to: str, source: Path, overwrite: bool) -> None:
    """`UserError` where the target has another suffix than `to` writes, is the source,
    or is there already.
    """
    suffixes = (
        (".safetensors",)
        if to == "native"
        else ()
        if to == "huggingface"
        else LINEAGES[to].suffixes
    )
    if suffixes and target.suffix.lower() not in suffixes:
        raise UserError(
            f"a {to} checkpoint is a {' or '.join(suffixes)} file, got {str(target)!r}; change its ending"
        )
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{str(target)!r} is the file to read; write to another place")
    if (
        target.exists()
        and not overwrite
        and (suffixes or not target.is_dir() or any(target.iterdir()))
    ):
        raise UserError(
            f"{str(target)!r} exists; choose another name, or use --overwrite to replace it"
        )


def _obstacles(stored: StoredWeights, to: str) -> list[str]:
    if to == "huggingface":
        return timm_obstacles(stored)
    reasons = timm_families.obstacles(stored.config) if to == "timm" else None
    return (
        translate.obstacles(need_mixer(stored.config, to), LINEAGES[to])
        if reasons is None
        else reasons
    )


def _bytes(target: Path, stored: StoredWeights, lineage: Lineage) -> bytes:
    config, tensors = (
        stored.config,
        stored.tensors,
    )  # of another family: under timm's names already
    if isinstance(config, MixerConfig):
        tensors = translate.to_theirs(config, tensors, lineage)
    if lineage is not MMPRETRAIN:
        return containers.to_bytes(target.suffix.lower(), tensors)
    meta = {"dataset_meta": {"classes": list(stored.labels)}} if stored.labels else {}
    return containers.to_bytes(
        target.suffix.lower(), tensors, wrap="state_dict", meta=meta
    )
