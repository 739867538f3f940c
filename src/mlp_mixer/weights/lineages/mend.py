"""Tensors that a tool left in pieces: put together where that is exact, else named.

Pruning keeps a weight and a mask, weight norm a length and a direction, an adapter what
is to be added. Only the first can be undone without rounding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ...errors import UserError

_ORIGINAL = "_orig"
_MASK = "_mask"

# A part of a tensor's name -> what the tool did, and the call that undoes it.
_IN_PIECES = (
    (
        r"\.lora_(A|B|embedding\w*|magnitude\w*)(\.|$)|\.base_layer\.",
        "adapters (LoRA) beside the weights: merge them with `merge_and_unload()`",
    ),
    (
        r"\._packed_params|\.(zero_point|SCB|qweight|qzeros|absmax)$",
        "quantised numbers: take the network before it is quantised",
    ),
    (
        r"\.parametrizations\.",
        "parametrised weights: undo that with "
        "`torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')`",
    ),
    (
        r"\.\w+_(g|v)$",
        "weights under weight norm: undo it with "
        "`torch.nn.utils.remove_weight_norm(module)`",
    ),
    (
        r"\.\w+_orig$",
        "weights under spectral norm: undo it with "
        "`torch.nn.utils.remove_spectral_norm(module)`",
    ),
)


def mend(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], int]:
    """Return a network's tensors with pruned ones put together.

    Args:
        tensors: By their names in the network.
        source: The file, for the errors.

    Returns:
        The tensors, and how many of them were pruned.

    Raises:
        UserError: Some are in pieces that cannot be put together exactly.
    """
    whole = dict(tensors)
    pruned = 0
    for name in tensors:
        original = name.removesuffix(_MASK) + _ORIGINAL
        if not name.endswith(_MASK) or original not in whole:
            continue
        mask = whole.pop(name)
        weight = whole.pop(original)
        if mask.shape != weight.shape:
            raise UserError(
                f"{source} prunes {original} {tuple(weight.shape)} by a mask of another "
                f"shape {tuple(mask.shape)}: it is damaged"
            )
        # As torch.nn.utils.prune computes it at every call.
        whole[name.removesuffix(_MASK)] = mask.to(weight.dtype) * weight
        pruned += 1
    for sign, what in _IN_PIECES:
        found = [name for name in whole if re.search(sign, f".{name}")]
        if found:
            raise UserError(
                f"{source} holds {what} and save again (tensors {found[0]}, ...)"
            )
    return whole, pruned
