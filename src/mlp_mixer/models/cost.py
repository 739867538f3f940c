"""Parameters, multiply-accumulates and activation memory of a Mixer by formula.

The counts follow the conventions that people quote:

`gmacs`
    Pure multiply-accumulates of the convolution and all matrix products, head included.
`gmacs_mmpretrain`
    mmpretrain's "FLOPs" (mmcv's counter on the feature extractor): the same without the
    head, plus 2 per LayerNorm element, the stem's bias adds and the mean pool.
    B/16: 12.61, L/16: 44.57.
`gmacs_fvcore`
    fvcore's count, which timm's tables print: pure MACs plus 5 per LayerNorm element.
    B/16: 12.62.

None of them doubles: 1 MAC counts as 1. The paper's conventions agree with the first;
twice it are FLOPs. Other families have no formulas: passes on the meta device, where
nothing is computed, are watched instead.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import unknown
from .as_built import plain_state
from .base import NetworkConfig, size_pair
from .families import ALL_VARIANTS, build_network
from .mixer import MixerConfig


@dataclass(frozen=True)
class PartCost:
    """Hold the counts of one part of the network, for one image.

    Attributes:
        name: Such as "stem" or "token mixing".
        params: Parameters.
        macs: Multiply-accumulates of its matrix products.
        activations: Numbers that autograd keeps for the backward pass of the plain
            module.
        norm_elements: Numbers that LayerNorms write.
    """

    name: str
    params: int
    macs: int
    activations: int
    norm_elements: int = 0


@dataclass(frozen=True)
class Cost:
    """Hold the counts of the whole network for one image.

    Attributes:
        parts: The parts, in order of computation; the last is the head.
        conv_bias_adds: Numbers to which the stem adds a bias.
        pooled_elements: Numbers over which the mean is taken.
    """

    parts: tuple[PartCost, ...]
    conv_bias_adds: int
    pooled_elements: int

    @property
    def params(self) -> int:
        """Count the parameters, classifier included."""
        return sum(part.params for part in self.parts)

    @property
    def params_without_head(self) -> int:
        """Count the parameters as the paper's Table 1 does."""
        return self.params - self.parts[-1].params

    @property
    def macs(self) -> int:
        """Count the multiply-accumulates of all matrix products."""
        return sum(part.macs for part in self.parts)

    @property
    def gmacs(self) -> float:
        """Return the pure multiply-accumulates in units of 1e9."""
        return self.macs / 1e9

    @property
    def gmacs_mmpretrain(self) -> float:
        """Return what mmpretrain's `get_flops` prints, in units of 1e9."""
        backbone = self.macs - self.parts[-1].macs
        adds = self.conv_bias_adds + self.pooled_elements
        return (backbone + 2 * self._norm_elements + adds) / 1e9

    @property
    def gmacs_fvcore(self) -> float:
        """Return what fvcore counts and timm's tables print, in units of 1e9."""
        return (self.macs + 5 * self._norm_elements) / 1e9

    @property
    def activations(self) -> int:
        """Count the numbers that autograd keeps for one image during training.

        Each has 4 bytes in fp32.
        """
        return sum(part.activations for part in self.parts)

    def activation_bytes(self, bytes_per_number: int = 4) -> int:
        """Return the memory of activations for one image during training, in bytes.

        Args:
            bytes_per_number: 4 in fp32.
        """
        return self.activations * bytes_per_number

    @property
    def _norm_elements(self) -> int:
        return sum(part.norm_elements for part in self.parts)


def cost(
    model: str | NetworkConfig | nn.Module,
    image_size: int | tuple[int, int] | None = None,
) -> Cost:
    """Count parameters, multiply-accumulates and activations for one image.

    Args:
        model: A variant by name, a configuration or a network, perhaps wrapped. Of a
            network its modules count, not the configuration that it began with.
        image_size: Side, or (height, width), in pixels, with the token widths kept; by
            default the model's own.

    Returns:
        The counts, by formula for a Mixer and by watching passes for other families.

    Raises:
        UserError: The name is unknown, the patch size does not divide the image size,
            or no configuration builds the network any more.
    """
    config = _config_of(model)
    if image_size is not None:
        config = dataclasses.replace(config, image_size=size_pair(image_size))
    return _count(config) if isinstance(config, MixerConfig) else _extrapolate(config)


def _config_of(model: str | NetworkConfig | nn.Module) -> NetworkConfig:
    if isinstance(model, NetworkConfig):
        return model
    if not isinstance(model, str):
        config, _ = plain_state(model)
        return config
    if model not in ALL_VARIANTS:
        raise unknown("model", model, ALL_VARIANTS)
    return ALL_VARIANTS[model]


def _count(config: MixerConfig) -> Cost:
    S = config.num_patches
    C = config.hidden_dim
    K = config.num_classes
    P = config.patch_size
    D_S = config.tokens_mlp_dim
    D_C = config.channels_mlp_dim
    L = config.num_blocks
    patch = P * P * config.in_channels
    # Dropout keeps the mask of each number that it sees.
    masks = 1 if config.dropout else 0
    # A norm keeps its input, and a mean and a reciprocal deviation per token.
    norm_state = S * C + 2 * S
    # An MLP keeps its input, and its hidden numbers before and after the GELU.
    stem = PartCost(
        "stem", params=patch * C + C, macs=S * patch * C, activations=S * patch
    )
    norms = PartCost(
        "norms",
        params=L * 4 * C,
        macs=0,
        activations=L * 2 * norm_state,
        norm_elements=L * 2 * S * C,
    )
    token_mixing = PartCost(
        "token mixing",
        params=L * (2 * S * D_S + D_S + S),
        macs=L * 2 * C * S * D_S,
        activations=L * (S * C + 2 * C * D_S + masks * (C * D_S + S * C)),
    )
    channel_mixing = PartCost(
        "channel mixing",
        params=L * (2 * C * D_C + D_C + C),
        macs=L * 2 * S * C * D_C,
        activations=L * (S * C + 2 * S * D_C + masks * (S * D_C + S * C)),
    )
    last_norm = PartCost("final norm", params=0, macs=0, activations=0)
    if config.final_norm:
        last_norm = PartCost("final norm", 2 * C, 0, norm_state, norm_elements=S * C)
    head = PartCost("head", params=0, macs=0, activations=0)
    if K:
        head = PartCost("head", params=C * K + K, macs=C * K, activations=C)
    parts = (stem, norms, token_mixing, channel_mixing, last_norm, head)
    return Cost(parts, conv_bias_adds=S * C, pooled_elements=S * C)


def _extrapolate(config: NetworkConfig) -> Cost:
    """Watch two networks of a few blocks; each block more adds what the last one did."""
    # The first block may differ too: linear stochastic depth never drops it.
    few = 2 + config.own_blocks
    more = config.num_blocks - few
    if more <= 1:
        return _watch(config)
    small, larger = (
        _watch(dataclasses.replace(config, num_blocks=count))
        for count in (few, few + 1)
    )
    parts = [
        _grown(*pair, more) for pair in zip(small.parts, larger.parts, strict=True)
    ]
    return dataclasses.replace(small, parts=tuple(parts))


def _grown(small: PartCost, larger: PartCost, times: int) -> PartCost:
    """Return a part that has grown so many times by the difference of two."""

    def count(name: str) -> int:
        before: int = getattr(small, name)
        after: int = getattr(larger, name)
        return before + times * (after - before)

    names = ("params", "macs", "activations", "norm_elements")
    return PartCost(small.name, **{name: count(name) for name in names})


def _watch(config: NetworkConfig) -> Cost:
    """Count in a pass on the meta device."""
    # It imports triton, which takes longer than everything else that `predict` imports.
    from torch.utils.flop_counter import FlopCounterMode

    norms: list[int] = []

    def count_norm(module: nn.Module, inputs: object, out: Tensor) -> None:
        norms.append(out.numel())

    # By storage: several views of one tensor count once, and as the whole.
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        return kept.setdefault(tensor.untyped_storage()._cdata, tensor)

    with torch.device("meta"):
        model = build_network(config)
        image = torch.empty(1, config.in_channels, *config.image_size)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(count_norm)
    watch = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, watch:
        tokens = model.forward_features(image)
        model.forward_head(tokens)
    # Autograd keeps weights too, but they are there anyway.
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    activations = 0
    for storage, tensor in kept.items():
        if storage not in weights:
            size = tensor.untyped_storage().nbytes()
            activations += size // tensor.element_size()
    numbers = sum(parameter.numel() for parameter in model.parameters())
    S = config.num_patches
    C = config.hidden_dim
    K = config.num_classes
    head = PartCost("head", params=C * K + K, macs=C * K, activations=0)
    body = PartCost(
        "all but the head",
        params=numbers - head.params,
        # The counter says FLOPs, two for each multiply-accumulate.
        macs=counter.get_total_flops() // 2 - head.macs,
        activations=activations,
        norm_elements=sum(norms),
    )
    return Cost((body, head), conv_bias_adds=S * C, pooled_elements=tokens.numel())
