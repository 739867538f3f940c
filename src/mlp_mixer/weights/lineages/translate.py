"""From a lineage's tensors to ours and back: recognise the names, infer the
architecture, check every shape.

Each foreign name fills exactly one row of its lineage's table and each of ours is
filled exactly once; what is missing, left over, mis-shaped, transposed, swapped or not
a number is an error that says so in the file's own names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from statistics import mode
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError, unknown
from ...models.mixer import MixerConfig, MlpMixer
from .tables import CONV1D, LEADING_TRANSPOSED, LEADING_VECTOR, LINEAGES, Entry, Lineage

_SINGLE_AXIS = {
    CONV1D: 2,
    LEADING_VECTOR: 0,
    LEADING_TRANSPOSED: 0,
}  # these layouts have one axis more than ours
_TORCH_PREFIXES = ("module.", "_orig_mod.", "model.", "timm_model.")
_KNOWN_STRANGERS: tuple[tuple[str, str], ...] = (
    ("cls_token", "a Vision Transformer"),
    ("pos_embed", "a Vision Transformer"),
    ("posembed_input", "a Vision Transformer"),
    ("MultiHeadDotProductAttention", "a Vision Transformer"),
    ("attn.qkv", "a Vision Transformer"),
    ("conv_dw", "a ConvNeXt or a relative"),
    ("running_mean", "a convolutional network with batch norm, such as a ResNet"),
    ("standardized_conv2d", "a ResNet (BiT)"),
    ("layers/conv2d", "a convolutional network of Keras, such as a ResNet"),
    ("conv1.weight", "a convolutional network, such as a ResNet"),
    ("layer_scale", "a ConvNeXt or a relative"),
)


def recognise(
    names: Iterable[str], source: str, lineage: str | None = None
) -> tuple[Lineage, str]:
    """The lineage that explains most of the names, and the prefix they carry;
    `UserError` names the likely family.

    lineage: use this one, whatever the names look like.
    """
    names = list(names)
    if lineage is not None and lineage not in LINEAGES:
        raise unknown("lineage", lineage, LINEAGES)
    found: list[tuple[int, Lineage, str]] = []
    for candidate in [LINEAGES[lineage]] if lineage else LINEAGES.values():
        for prefix in candidate.prefixes:
            inner = {
                name.removeprefix(prefix) for name in names if name.startswith(prefix)
            }
            if blocks := candidate.count_blocks(inner):
                known = sum(
                    entry.theirs in inner
                    for entry in candidate.table(min(blocks, len(inner)))
                )
                found.append((known, candidate, prefix))
    if found:
        _, best, prefix = max(found, key=lambda one: one[0])
        return best, prefix
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    if lineage is not None:
        raise UserError(
            f"{source} is no {lineage} checkpoint of an MLP-Mixer; its tensors are {shown}"
        )
    family = next(
        (
            family
            for sign, family in _KNOWN_STRANGERS
            if any(sign in name for name in names)
        ),
        None,
    )
    if family:
        raise UserError(
            f"{source} holds {family}, not an MLP-Mixer (tensors {shown}); give a Mixer's checkpoint"
        )
    raise UserError(
        f"{source} is no MLP-Mixer checkpoint of any known lineage ({', '.join(LINEAGES)}): its tensors are {shown}; "
        "if it is one under other names, rename them to timm's"
    )


def plain_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Without the wrappers that torch.compile, DataParallel, Lightning and transformers
    put before every name.
    """
    plain = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):
        raise UserError(
            "the checkpoint holds a tensor twice, with and without '_orig_mod.' in its name: keep one of them"
        )
    while prefix := next(
        (
            p
            for p in _TORCH_PREFIXES
            if plain and all(name.startswith(p) for name in plain)
        ),
        None,
    ):
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    return plain


def to_ours(
    tensors: Mapping[str, Tensor],
    lineage: Lineage,
    prefix: str,
    source: str,
    image_size: tuple[int, int] | None = None,
) -> tuple[MixerConfig, dict[str, Tensor]]:
    """The architecture that the shapes tell, and the tensors under our names, in the
    dtype they were stored in.

    image_size: (height, width) where the shapes leave it open; only stated, never
        resized to.
    Raises `UserError` with every problem in the file's own names.
    """
    inner = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    blocks = lineage.count_blocks(inner)
    if blocks > len(inner):
        raise UserError(
            f"{source} numbers its blocks up to {blocks:,}, but holds only {len(inner):,} tensors: refused"
        )
    table = lineage.table(blocks)
    if not any(
        entry.theirs in inner for entry in table if entry.ours[0].startswith("head.")
    ):
        table = [
            entry for entry in table if not entry.ours[0].startswith("head.")
        ]  # a backbone: pooled features
    names = {entry.theirs: entry for entry in table}
    missing = [f"missing {prefix}{name}" for name in names if name not in inner]
    refuse(
        source,
        lineage,
        missing + [f"unexpected {prefix}{name}" for name in inner if name not in names],
    )
    check_numbers({prefix + name: tensor for name, tensor in inner.items()}, source)
    refuse(
        source,
        lineage,
        [
            _axes(prefix, entry, inner[entry.theirs])
            for entry in table
            if _misfit(entry, inner)
        ],
    )
    config, ours = _infer(table, inner, lineage, source, image_size)
    refuse(source, lineage, _shape_problems(config, table, inner, ours, prefix))
    return config, apart(ours)


def apart(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """No two tensors in the same memory: training would write into both, and
    safetensors refuses them.
    """
    seen: set[int] = set()
    apart = {}
    for name, tensor in ours.items():
        apart[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return apart


def refuse(source: str, lineage: Lineage, problems: list[str]) -> None:
    """`UserError` with the first problems, if there are any."""
    if problems:
        shown = "; ".join(problems[:8]) + (
            f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        )
        raise UserError(
            f"{source} looks like a {lineage.name} checkpoint but does not fit: {shown}"
        )


def _misfit(entry: Entry, inner: Mapping[str, Tensor]) -> bool:
    shape = inner[entry.theirs].shape
    return len(shape) != entry.layout.ndim or (
        entry.layout in _SINGLE_AXIS and shape[_SINGLE_AXIS[entry.layout]] != 1
    )


def _axes(prefix: str, entry: Entry, tensor: Tensor) -> str:
    single = (
        f", axis {_SINGLE_AXIS[entry.layout]} of length 1"
        if entry.layout in _SINGLE_AXIS
        else ""
    )
    return f"{prefix}{entry.theirs} is {tuple(tensor.shape)}, expected {entry.layout.ndim} axes{single}"


def check_numbers(tensors: Mapping[str, Tensor], source: str) -> None:
    """`UserError` for anything but finite floating-point numbers of at least 16 bits."""
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{source} stores {name} as {kind}, expected fp32, fp16 or bf16; give the weights as saved"
            )
        if tensor.numel() == 0:
            raise UserError(
                f"{source} stores {name} without any number, shape {tuple(tensor.shape)}: it is damaged"
            )
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise UserError(
            f"{source} holds NaN or infinite values in {len(bad)} of {len(tensors)} tensors, first in {bad[0]}; "
            "the training diverged or the file is damaged: take an earlier checkpoint"
        )


def _infer(
    table: list[Entry],
    inner: Mapping[str, Tensor],
    lineage: Lineage,
    source: str,
    image_size: tuple[int, int] | None,
) -> tuple[MixerConfig, dict[str, Tensor]]:
    """Widths from the biases and norms (most blocks agree even if one tensor is wrong),
    patches from the stem.
    """
    lengths: dict[str, list[int]] = {}
    for entry in table:
        for name in entry.ours:
            lengths.setdefault(re.sub(r"^blocks\.\d+\.", "", name), []).append(
                inner[entry.theirs].shape[-1]
            )
    num_patches = mode(lengths["mlp_tokens.fc2.bias"])
    stem = next(entry for entry in table if entry.ours[0] == "stem.proj.weight")
    patch_size, in_channels = patch(
        stem, inner[stem.theirs], num_patches, source, image_size
    )
    ours: dict[str, Tensor] = {}
    for entry in table:
        tensor = inner[entry.theirs]
        if entry.layout.rows:
            tensor = entry.layout.rows(tensor).reshape(
                -1, patch_size, patch_size, in_channels
            )
        ours |= {name: entry.layout.ours(tensor).contiguous() for name in entry.ours}
    config = MixerConfig(
        patch_size=patch_size,
        num_blocks=len(lengths["norm1.weight"]),
        hidden_dim=mode(lengths["norm1.weight"]),
        tokens_mlp_dim=mode(lengths["mlp_tokens.fc1.bias"]),
        channels_mlp_dim=mode(lengths["mlp_channels.fc1.bias"]),
        image_size=image_size_of(num_patches, patch_size, source, image_size),
        in_channels=in_channels,
        num_classes=ours["head.bias"].shape[0] if "head.bias" in ours else 0,
        gelu=lineage.gelu,
        norm_eps=lineage.norm_eps,
        final_norm=lineage.final_norm,
    )
    return config, ours


def patch(
    stem: Entry,
    tensor: Tensor,
    num_patches: int,
    source: str,
    image_size: tuple[int, int] | None,
) -> tuple[int, int]:
    """Patch side and input channels; a flattened stem tells only their product P P
    channels.
    """
    if stem.layout.rows is None:
        _, in_channels, height, width = stem.layout.ours(tensor).shape
        if height != width:
            raise UserError(
                f"{source} has patches of {height}x{width} pixels, expected square ones"
            )
        return height, in_channels
    values = stem.layout.rows(tensor).shape[1]
    if image_size:  # the stated size settles the patch side
        side = math.isqrt(image_size[0] * image_size[1] // num_patches)
        if side and values % side**2 == 0:
            return side, values // side**2
    for channels in (3, 1, 4):
        side = math.isqrt(values // channels)
        if side * side * channels == values and not image_size:
            return side, channels
    raise UserError(
        f"{source} flattens each patch to {values} values, which does not tell its side and channels"
        + (f" at {image_size[0]}x{image_size[1]} pixels" if image_size else "")
        + f"; state the image size (height and width) that gives its {num_patches} patches"
    )


def image_size_of(
    num_patches: int, patch_size: int, source: str, image_size: tuple[int, int] | None
) -> tuple[int, int]:
    """The stated size if it gives that many patches, else a square one."""
    side = math.isqrt(num_patches)
    if image_size is None:
        if side * side != num_patches:
            raise UserError(
                f"{source} was made for {num_patches} patches of {patch_size} pixels, which form no square; "
                f"state the image size (height and width), such as {_example(num_patches, patch_size)}"
            )
        return side * patch_size, side * patch_size
    rows = image_size[0] // patch_size
    columns = image_size[1] // patch_size
    if rows * columns != num_patches or image_size != (
        rows * patch_size,
        columns * patch_size,
    ):
        raise UserError(
            f"{source} was made for {num_patches} patches of {patch_size} pixels, "
            f"and {image_size[0]}x{image_size[1]} gives {rows} x {columns}; the size is only stated, never changed to"
        )
    return image_size


def _example(num_patches: int, patch_size: int) -> str:
    rows = next(
        rows
        for rows in range(math.isqrt(num_patches), 0, -1)
        if num_patches % rows == 0
    )
    return f"{rows * patch_size}x{num_patches // rows * patch_size}"


def _shape_problems(
    config: MixerConfig,
    table: list[Entry],
    inner: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    prefix: str,
) -> list[str]:
    """Tensors that do not have the shape of the architecture, in the file's names and
    layout.
    """
    with torch.device("meta"):
        expected = MlpMixer(config).state_dict()
    wrong = {
        entry.theirs: (
            tuple(inner[entry.theirs].shape),
            tuple(entry.layout.theirs(expected[name]).shape),
        )
        for entry in table
        for name in entry.ours[:1]
        if ours[name].shape != expected[name].shape
    }
    by_shapes = {
        shapes: name for name, shapes in reversed(wrong.items())
    }  # the first of each
    problems = []
    for name, (came, wanted) in wrong.items():
        partner = by_shapes.get((wanted, came))
        hint = (
            " (transposed?)"
            if came == wanted[::-1]
            else f" (swapped with {prefix}{partner}?)"
            if partner
            else ""
        )
        problems.append(f"{prefix}{name} is {came}, expected {wanted}{hint}")
    return problems


def obstacles(config: MixerConfig, lineage: Lineage) -> list[str]:
    """Why a model with this configuration would compute something else in that lineage;
    empty if it would not.
    """
    reasons = []
    if config.gelu != lineage.gelu:
        reasons.append(
            f"the weights use the {config.gelu} form of GELU, {lineage.name} computes {lineage.gelu}"
        )
    if config.norm_eps != lineage.norm_eps:
        reasons.append(
            f"their LayerNorm epsilon is {config.norm_eps:g}, {lineage.name} computes {lineage.norm_eps:g}"
        )
    if config.final_norm != lineage.final_norm:
        has, lacks = (
            ("has", "they have none")
            if lineage.final_norm
            else ("lacks", "they have one")
        )
        reasons.append(f"{lineage.name} {has} a norm before pooling, {lacks}")
    if lineage.name == "lavish619" and config.grid[0] != config.grid[1]:
        reasons.append("lavish619 takes only square images")
    if (
        lineage.name == "keras"
        and not config.num_patches == config.tokens_mlp_dim == config.channels_mlp_dim
    ):
        reasons.append(
            "the Keras example makes both hidden widths equal to the number of patches"
        )
    return reasons


def to_theirs(
    config: MixerConfig, ours: Mapping[str, Tensor], lineage: Lineage
) -> dict[str, Tensor]:
    """The tensors under a lineage's names and in its layouts; a norm it has and the
    weights lack becomes the identity.

    Raises `UserError` where one tensor would have to be two: the Keras example shares
        one norm between two MLPs.
    """
    theirs: dict[str, Tensor] = {}
    for entry in lineage.table(config.num_blocks):
        tensors = [
            _or_identity(ours, name, config)
            for name in entry.ours
            if name.split(".")[0] != "head" or config.num_classes
        ]
        if any(not torch.equal(tensors[0], other) for other in tensors[1:]):
            raise UserError(
                f"{lineage.name} has one tensor {entry.theirs} for {' and '.join(entry.ours)}, which differ"
            )
        if tensors:
            theirs[lineage.prefixes[0] + entry.theirs] = entry.layout.theirs(
                tensors[0]
            ).contiguous()
    return theirs


def _or_identity(ours: Mapping[str, Tensor], name: str, config: MixerConfig) -> Tensor:
    if name.startswith("norm.") and not config.final_norm:
        return torch.full_like(ours["stem.proj.bias"], float(name.endswith("weight")))
    return ours[name]
