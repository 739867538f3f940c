"""From a lineage's tensors to ours and back: infer the architecture, check everything.

Each foreign name fills exactly one row of its lineage's table, and each of ours is
filled exactly once; the shapes tell the architecture. Whatever is missing, left over,
mis-shaped, transposed, swapped or not a number is an error that says so in the file's
own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from statistics import mode

import torch
from torch import Tensor

from ...errors import UserError
from ...models.mixer import MixerConfig
from ..shapes import misfits, shown
from .lineage import CONV1D, LEADING_TRANSPOSED, LEADING_VECTOR, Entry, Lineage
from .sizes import channels_guessed, image_size_of, patch

# These layouts have one axis more than ours, always of length 1: which one it is.
_SINGLE_AXIS = {CONV1D: 2, LEADING_VECTOR: 0, LEADING_TRANSPOSED: 0}


def to_ours(
    tensors: Mapping[str, Tensor],
    lineage: Lineage,
    prefix: str,
    source: str,
    image_size: tuple[int, int] | None = None,
) -> tuple[MixerConfig, dict[str, Tensor]]:
    """Infer the architecture from the shapes, and bring the tensors under our names.

    Args:
        tensors: The tensors of the file.
        lineage: What `recognise` found.
        prefix: What stands before every name; other tensors are left out.
        source: The file, for the errors.
        image_size: (height, width) where the shapes leave it open. It is only stated:
            nothing is resized.

    Returns:
        The architecture, and the tensors in the dtype they were stored in.

    Raises:
        UserError: The tensors do not fit the lineage or each other; the error lists
            the problems in the file's own names.
    """
    inner = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            inner[name.removeprefix(prefix)] = tensor
    table = _table_for(inner, lineage, source)
    # Names first, then numbers, then the number of axes, then shapes: every check
    # relies on the ones before it, and gives the clearest error for its mistake.
    names = {entry.theirs for entry in table}
    problems = [
        f"missing {prefix}{entry.theirs}"
        for entry in table
        if entry.theirs not in inner
    ]
    problems += [f"unexpected {prefix}{name}" for name in inner if name not in names]
    if problems and problems == _of_the_final_norm(table, prefix):
        raise UserError(
            f"{source} lacks the norm behind the last block ({problems[0]}): it was cut "
            "off there, as timm's features_only does; give the whole network's weights"
        )
    refuse(source, lineage, problems)
    check_numbers({prefix + name: tensor for name, tensor in inner.items()}, source)
    problems = [
        _wrong_axes(prefix, entry, inner[entry.theirs])
        for entry in table
        if not _has_its_axes(entry, inner[entry.theirs])
    ]
    refuse(source, lineage, problems)
    config, ours = _infer(table, inner, lineage, source, image_size)
    by_our_name = {name: entry for entry in table for name in entry.ours}

    def in_the_file(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        entry = by_our_name[name]
        return prefix + entry.theirs, entry.layout.theirs(tensor)

    refuse(source, lineage, misfits(config, ours, in_the_file))
    return config, apart(ours)


def _table_for(
    inner: Mapping[str, Tensor], lineage: Lineage, source: str
) -> list[Entry]:
    """Return the rows that the file should fill: as many blocks, and a head if any."""
    blocks = lineage.count_blocks(inner)
    if blocks > len(inner):
        raise UserError(
            f"{source} numbers its blocks up to {blocks:,}, but holds only "
            f"{len(inner):,} tensors: refused"
        )
    table = lineage.table(blocks)
    head = [entry for entry in table if entry.ours[0].startswith("head.")]
    if not any(entry.theirs in inner for entry in head):
        # A backbone: the network gives its pooled features.
        return [entry for entry in table if entry not in head]
    return table


def _of_the_final_norm(table: Iterable[Entry], prefix: str) -> list[str]:
    """Return the complaints about a network that lacks its final norm alone."""
    norm = [entry.theirs for entry in table if entry.ours[0].startswith("norm.")]
    return [f"missing {prefix}{name}" for name in norm]


def apart(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every tensor memory of its own.

    Training would write into two of them at once, and safetensors refuses them.

    Args:
        ours: Tensors, some of which may begin in the same place.

    Returns:
        The same tensors; of those in one place, all but the first are copies.
    """
    seen: set[int] = set()
    separate = {}
    for name, tensor in ours.items():
        separate[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return separate


def refuse(source: str, lineage: Lineage, problems: list[str]) -> None:
    """Raise an error with the first problems, if there are any.

    Args:
        source: The file.
        lineage: What it looks like.
        problems: A phrase for each.

    Raises:
        UserError: There is a problem.
    """
    if problems:
        raise UserError(
            f"{source} looks like a {lineage.name} checkpoint but does not fit: "
            f"{shown(problems)}"
        )


def _has_its_axes(entry: Entry, tensor: Tensor) -> bool:
    if tensor.ndim != entry.layout.ndim:
        return False
    single = _SINGLE_AXIS.get(entry.layout)
    return single is None or tensor.shape[single] == 1


def _wrong_axes(prefix: str, entry: Entry, tensor: Tensor) -> str:
    expected = f"{entry.layout.ndim} axes"
    if entry.layout in _SINGLE_AXIS:
        expected += f", axis {_SINGLE_AXIS[entry.layout]} of length 1"
    return f"{prefix}{entry.theirs} is {tuple(tensor.shape)}, expected {expected}"


def check_numbers(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse anything but finite floating-point numbers of at least 16 bits.

    Args:
        tensors: The tensors under the file's names.
        source: The file, for the errors.

    Raises:
        UserError: A tensor has another dtype, no numbers, or NaN or infinite ones.
    """
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{source} stores {name} as {kind}, expected fp32, fp16 or bf16; give "
                "the weights as saved"
            )
        if tensor.numel() == 0:
            raise UserError(
                f"{source} stores {name} without any number, shape "
                f"{tuple(tensor.shape)}: it is damaged"
            )
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise UserError(
            f"{source} holds NaN or infinite values in {len(bad)} of {len(tensors)} "
            f"tensors, first in {bad[0]}; the training diverged or the file is "
            "damaged: take an earlier checkpoint"
        )


def _infer(
    table: list[Entry],
    inner: Mapping[str, Tensor],
    lineage: Lineage,
    source: str,
    image_size: tuple[int, int] | None,
) -> tuple[MixerConfig, dict[str, Tensor]]:
    """Read the widths off the tensors, and bring them under our names."""
    # Widths are taken from biases and norms, whose only axis means one thing in every
    # layout. The most common one counts: a single wrong tensor must not change the
    # architecture, or the errors would blame all the others.
    lengths: dict[str, list[int]] = {}
    for entry in table:
        for name in entry.ours:
            part = re.sub(r"^blocks\.\d+\.", "", name)
            length = inner[entry.theirs].shape[-1]
            lengths.setdefault(part, []).append(length)
    num_patches = mode(lengths["mlp_tokens.fc2.bias"])
    stem = next(entry for entry in table if entry.ours[0] == "stem.proj.weight")
    patch_size, in_channels = patch(
        stem, inner[stem.theirs], num_patches, source, image_size
    )
    ours: dict[str, Tensor] = {}
    for entry in table:
        tensor = inner[entry.theirs]
        if entry.layout.rows:
            # A flattened stem: only now its patch side is known.
            rows = entry.layout.rows(tensor)
            tensor = rows.reshape(-1, patch_size, patch_size, in_channels)
        for name in entry.ours:
            ours[name] = entry.layout.ours(tensor).contiguous()
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


def guesses(
    tensors: Mapping[str, Tensor], lineage: Lineage, config: MixerConfig
) -> list[str]:
    """Say what no shape told, where a guess was possible.

    Args:
        tensors: The tensors under the file's names, without a prefix.
        lineage: Their lineage.
        config: What `to_ours` made of them.

    Returns:
        A phrase for each guess; empty without one.
    """
    stem = lineage.table(0)[0]
    values = channels_guessed(stem, tensors[stem.theirs])
    if values is None:
        return []
    side = config.patch_size
    return [
        f"guessed: the {values} values of a patch are {config.in_channels} channels of "
        f"{side}x{side} pixels; state the image size if they are not"
    ]


def obstacles(config: MixerConfig, lineage: Lineage) -> list[str]:
    """List why a lineage's code would compute something else with these weights.

    Args:
        config: The network that the weights belong to.
        lineage: Whose code would run.

    Returns:
        A phrase for each reason; empty if the results would be the same.
    """
    reasons = []
    if config.gelu != lineage.gelu:
        reasons.append(
            f"the weights use the {config.gelu} form of GELU, {lineage.name} computes "
            f"{lineage.gelu}"
        )
    if config.norm_eps != lineage.norm_eps:
        reasons.append(
            f"their LayerNorm epsilon is {config.norm_eps:g}, {lineage.name} computes "
            f"{lineage.norm_eps:g}"
        )
    if lineage.final_norm and not config.final_norm:
        reasons.append(f"{lineage.name} has a norm before pooling, they have none")
    if config.final_norm and not lineage.final_norm:
        reasons.append(f"{lineage.name} lacks a norm before pooling, they have one")
    rows, columns = config.grid
    if lineage.name == "lavish619" and rows != columns:
        reasons.append("lavish619 takes only square images")
    widths = {config.num_patches, config.tokens_mlp_dim, config.channels_mlp_dim}
    if lineage.name == "keras" and len(widths) > 1:
        reasons.append(
            "the Keras example makes both hidden widths equal to the number of patches"
        )
    return reasons


def to_theirs(
    config: MixerConfig, ours: Mapping[str, Tensor], lineage: Lineage
) -> dict[str, Tensor]:
    """Bring tensors under a lineage's names and into its layouts.

    A final norm that the lineage has and the weights lack becomes the identity.

    Args:
        config: The network that the tensors belong to.
        ours: The tensors under our names.
        lineage: Whose names and layouts to use.

    Returns:
        The tensors under the lineage's names, with its usual prefix.

    Raises:
        UserError: One tensor would have to be two: the Keras example shares one norm
            between two MLPs.
    """
    theirs: dict[str, Tensor] = {}
    for entry in lineage.table(config.num_blocks):
        is_head = entry.ours[0].startswith("head.")
        if is_head and not config.num_classes:
            continue
        tensors = [_or_identity(ours, name, config) for name in entry.ours]
        first = tensors[0]
        if any(not torch.equal(first, other) for other in tensors[1:]):
            raise UserError(
                f"{lineage.name} has one tensor {entry.theirs} for "
                f"{' and '.join(entry.ours)}, which differ"
            )
        name = lineage.prefixes[0] + entry.theirs
        theirs[name] = entry.layout.theirs(first).contiguous()
    return theirs


def _or_identity(ours: Mapping[str, Tensor], name: str, config: MixerConfig) -> Tensor:
    """Return a tensor, or that of a final norm with scale 1 and shift 0."""
    if name.startswith("norm.") and not config.final_norm:
        value = 1.0 if name == "norm.weight" else 0.0
        return torch.full_like(ours["stem.proj.bias"], value)
    return ours[name]
