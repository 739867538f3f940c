"""Parameters, multiply-accumulates and activation memory of a Mixer by formula, in the
conventions people quote.

`gmacs`            pure multiply-accumulates of the convolution and all matrix products,
head included. `gmacs_mmpretrain` mmpretrain's "FLOPs" (mmcv's counter on the feature
extractor): the same without the head, plus
                   2 per LayerNorm element, the stem's bias adds and the mean pool.
                   B/16: 12.61, L/16: 44.57.
`gmacs_fvcore`     fvcore's count, which timm's tables print: pure MACs plus 5 per
LayerNorm element. B/16: 12.62. None of them doubles: 1 MAC counts as 1. The paper's
conventions agree with the first; twice it are FLOPs. Other families have no formulas: a
pass on the meta device, where nothing is computed, is watched instead.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import unknown
from .base import NetworkConfig
from .families import ALL_VARIANTS
from .mixer import MixerConfig, MlpMixer


@dataclass(frozen=True)
class PartCost:
    """One part of the network, for one image."""

    name: str
    params: int
    macs: int
    activations: (
        int  # numbers that autograd keeps for the backward pass of the plain module
    )
    norm_elements: int = 0


@dataclass(frozen=True)
class Cost:
    """The whole network for one image, and its parts."""

    parts: tuple[PartCost, ...]
    conv_bias_adds: int
    pooled_elements: int

    @property
    def params(self) -> int:
        """Parameters, classifier included."""
        return sum(part.params for part in self.parts)

    @property
    def params_without_head(self) -> int:
        """Parameters as the paper's Table 1 counts them."""
        return self.params - self.parts[-1].params

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all matrix products."""
        return sum(part.macs for part in self.parts)

    @property
    def gmacs(self) -> float:
        """Pure multiply-accumulates in units of 1e9."""
        return self.macs / 1e9

    @property
    def gmacs_mmpretrain(self) -> float:
        """What mmpretrain's `get_flops` prints, in units of 1e9."""
        backbone = self.macs - self.parts[-1].macs
        return (
            backbone
            + 2 * self._norm_elements
            + self.conv_bias_adds
            + self.pooled_elements
        ) / 1e9

    @property
    def gmacs_fvcore(self) -> float:
        """What fvcore counts and timm's tables print, in units of 1e9."""
        return (self.macs + 5 * self._norm_elements) / 1e9

    @property
    def activations(self) -> int:
        """Numbers that autograd keeps for one image during training (4 bytes each in
        fp32).
        """
        return sum(part.activations for part in self.parts)

    def activation_bytes(self, bytes_per_number: int = 4) -> int:
        """Training activation memory for one image, in bytes."""
        return self.activations * bytes_per_number

    @property
    def _norm_elements(self) -> int:
        return sum(part.norm_elements for part in self.parts)


def cost(
    model: str | NetworkConfig | MlpMixer,
    image_size: int | tuple[int, int] | None = None,
) -> Cost:
    """Count a variant by name, a configuration or a model, at its own or another image
    size (token widths kept).

    Raises `UserError` for an unknown name or an image size that the patch size does not
    divide.
    """
    if isinstance(model, str) and model not in ALL_VARIANTS:
        raise unknown("model", model, ALL_VARIANTS)
    config = (
        ALL_VARIANTS[model]
        if isinstance(model, str)
        else model.config
        if isinstance(model, MlpMixer)
        else model
    )
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        config = dataclasses.replace(config, image_size=size)
    return _count(config) if isinstance(config, MixerConfig) else _watch(config)


def _count(config: MixerConfig) -> Cost:
    S = config.num_patches
    C = config.hidden_dim
    K = config.num_classes
    P = config.patch_size
    D_S = config.tokens_mlp_dim
    D_C = config.channels_mlp_dim
    L = config.num_blocks
    patch = P * P * config.in_channels
    masks = 1 if config.dropout else 0
    norm_state = S * C + 2 * S  # its input, a mean and a reciprocal deviation per token
    parts = (
        PartCost("stem", patch * C + C, S * patch * C, S * patch),
        PartCost("norms", L * 4 * C, 0, L * 2 * norm_state, L * 2 * S * C),
        PartCost(
            "token mixing",
            L * (2 * S * D_S + D_S + S),
            L * 2 * C * S * D_S,
            L * (S * C + 2 * C * D_S + masks * (C * D_S + S * C)),
        ),
        PartCost(
            "channel mixing",
            L * (2 * C * D_C + D_C + C),
            L * 2 * S * C * D_C,
            L * (S * C + 2 * S * D_C + masks * (S * D_C + S * C)),
        ),
        PartCost("final norm", 2 * C, 0, norm_state, S * C)
        if config.final_norm
        else PartCost("final norm", 0, 0, 0),
        PartCost("head", C * K + K if K else 0, C * K, C if K else 0),
    )
    return Cost(parts, conv_bias_adds=S * C, pooled_elements=S * C)


def _watch(config: NetworkConfig) -> Cost:
    norms: list[int] = []
    kept: dict[
        int, Tensor
    ] = {}  # by storage: views of one count once, and as the whole
    with torch.device("meta"):
        model = MlpMixer(config)
        image = torch.empty(1, config.in_channels, *config.image_size)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _, __, out: norms.append(out.numel()))
    keep = torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage()._cdata, t), lambda t: t
    )
    with FlopCounterMode(display=False) as counter, keep:
        tokens = model.forward_features(image)
        model.forward_head(tokens)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    activations = sum(
        t.untyped_storage().nbytes() // t.element_size()
        for key, t in kept.items()
        if key not in weights
    )
    numbers = sum(parameter.numel() for parameter in model.parameters())
    S = config.num_patches
    C = config.hidden_dim
    K = config.num_classes
    head = PartCost("head", C * K + K, C * K, 0)
    macs = counter.get_total_flops() // 2 - head.macs
    body = PartCost(
        "all but the head", numbers - head.params, macs, activations, sum(norms)
    )
    return Cost((body, head), conv_bias_adds=S * C, pooled_elements=tokens.numel())
