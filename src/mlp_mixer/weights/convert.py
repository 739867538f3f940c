"""From one lineage's file to another's: the same numbers under other names.

A conversion that would change the results is refused, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..config import json_values
from ..errors import UserError, unknown
from ..files import PathLike, write_bytes
from ..models.families import need_mixer
from ..models.mixer import MixerConfig
from .checkpoint import StoredWeights, native_bytes
from .formats import containers
from .given_labels import GivenLabels
from .huggingface.hub import timm_obstacles, write_folder
from .lineages import timm_families, translate
from .lineages.lineage import Lineage
from .lineages.tables import LINEAGES, MMPRETRAIN
from .loading import read_weights

TARGETS = ("native", "huggingface", *LINEAGES)
"""What can be written: our file, a folder for Hugging Face, every lineage's file."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Conversion:
    """Says what was written.

    Attributes:
        path: The file or folder.
        lineage: The lineage of the source.
        notes: What a reader should know about the result.
    """

    path: Path
    lineage: str
    notes: tuple[str, ...]


def convert(
    source: PathLike,
    out: PathLike,
    to: str,
    *,
    key: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    lineage: str | None = None,
    labels: GivenLabels | None = None,
    dtype: str | None = None,
    about: Mapping[str, Any] | None = None,
    force: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Read weights of any lineage and write them as another's.

    Args:
        source: As for `load`.
        out: The file to write, or the folder for "huggingface".
        to: One of `TARGETS`.
        key: As for `load`.
        image_size: As for `load`.
        lineage: As for `load`.
        labels: As for `load`.
        dtype: A key of `DTYPES`, to round the tensors to; they keep the stored one by
            default.
        about: More JSON for the provenance, such as {"licence": "MIT"}.
        force: Write even if the other lineage would compute something else with these
            weights; the notes say what.
        overwrite: Replace a file that is there.

    Returns:
        What was written.

    Raises:
        UserError: The results would change, the suffix is not one of that lineage,
            `out` exists, or `source` cannot be loaded.
    """
    target = Path(out)
    if to not in TARGETS:
        raise unknown("kind of checkpoint", to, TARGETS)
    if dtype and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    check_place(target, to, Path(source), overwrite)
    stored = read_weights(
        source, key=key, image_size=image_size, lineage=lineage, labels=labels
    )
    stored.provenance.update(json_values(dict(about or {}), "about"))
    # What was chosen and left out; a file of ours says what was done long ago.
    read = () if stored.lineage == "native" else stored.provenance.get("notes", ())
    if dtype:
        stored = _rounded(stored, dtype, str(source))
    if to == "native":
        write_bytes(target, native_bytes(stored))
        return Conversion(target, stored.lineage, tuple(read))
    reasons = _obstacles(stored, to)
    if reasons and not force:
        raise UserError(
            f"as {to} these weights would not give the same results: "
            f"{'; '.join(reasons)}; use --force (force=True) to write them nevertheless"
        )
    changes = [f"not the same results: {reason}" for reason in reasons]
    notes = (*read, *changes)
    if to == "huggingface":
        write_folder(target, stored)
        return Conversion(target, stored.lineage, notes)
    write_bytes(target, _bytes(target, stored, LINEAGES[to]))
    left_behind = "preprocessing and provenance"
    if LINEAGES[to] is not MMPRETRAIN:
        left_behind = f"class names, {left_behind}"
    note = f"{left_behind} stay behind: this kind of file has no place for them"
    return Conversion(target, stored.lineage, (*notes, note))


def check_place(target: Path, to: str, source: Path, overwrite: bool) -> None:
    """Refuse a place that cannot be written to, before any work is done.

    Args:
        target: The file or folder to write.
        to: One of `TARGETS`.
        source: The file that is read.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        UserError: The target has another suffix than `to` writes, is the source, or is
            there already.
    """
    suffixes = _suffixes(to)
    if suffixes and target.suffix.lower() not in suffixes:
        raise UserError(
            f"a {to} checkpoint is a {' or '.join(suffixes)} file, got "
            f"{str(target)!r}; change its ending"
        )
    if not target.exists():
        return
    if source.exists() and target.samefile(source):
        raise UserError(f"{str(target)!r} is the file to read; write to another place")
    if overwrite:
        return
    # An empty folder may be filled; only a folder for Hugging Face has no suffix.
    if not suffixes and target.is_dir() and not any(target.iterdir()):
        return
    raise UserError(
        f"{str(target)!r} exists; choose another name, or use --overwrite to replace it"
    )


def _suffixes(to: str) -> tuple[str, ...]:
    """Return the suffixes of a kind of file; a folder for Hugging Face has none."""
    if to == "native":
        return (".safetensors",)
    if to == "huggingface":
        return ()
    return LINEAGES[to].suffixes


def _rounded(stored: StoredWeights, dtype: str, source: str) -> StoredWeights:
    tensors = {name: t.to(DTYPES[dtype]) for name, t in stored.tensors.items()}
    # fp16 ends at 65,504: a larger weight becomes infinite.
    translate.check_numbers(tensors, f"{source!r} as {dtype}")
    return replace(stored, tensors=tensors)


def _obstacles(stored: StoredWeights, to: str) -> list[str]:
    """List why the target's code would compute something else."""
    if to == "huggingface":
        return timm_obstacles(stored)
    if to == "timm":
        reasons = timm_families.obstacles(stored.config)
        if reasons is not None:
            return reasons
    return translate.obstacles(need_mixer(stored.config, to), LINEAGES[to])


def _bytes(target: Path, stored: StoredWeights, lineage: Lineage) -> bytes:
    suffix = target.suffix.lower()
    tensors = stored.tensors
    # Networks of other families, which only timm has, carry timm's names already.
    if isinstance(stored.config, MixerConfig):
        tensors = translate.to_theirs(stored.config, tensors, lineage)
    if lineage is not MMPRETRAIN:
        return containers.to_bytes(suffix, tensors)
    meta: dict[str, Any] = {}
    if stored.labels:
        meta["dataset_meta"] = {"classes": list(stored.labels)}
    return containers.to_bytes(suffix, tensors, wrap="state_dict", meta=meta)
