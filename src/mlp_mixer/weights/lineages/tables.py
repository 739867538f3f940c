"""Names and layouts of every lineage, as invertible tables: what each calls the parts
of a Mixer, and how it lays them.

Our names are timm's. A row of `modules` is a template in the order of `PARTS`: `*`
stands for the leaf ("kernel", "weight", ...), `{i}` for the block; lucidrains counts
stem and blocks in one list, hence `{i2}` = i + 2 and the places after the blocks `{L2}`
and `{L4}`; Keras gives the first of several layers no number, hence `{_i}`.

Axes: P patch side, C channels (hidden), S patches (tokens), D hidden width of an MLP, K
    classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...choices import Gelu

PARTS = (
    "stem.proj",
    "blocks.{i}.norm1",
    "blocks.{i}.mlp_tokens.fc1",
    "blocks.{i}.mlp_tokens.fc2",
    "blocks.{i}.norm2",
    "blocks.{i}.mlp_channels.fc1",
    "blocks.{i}.mlp_channels.fc2",
    "norm",
    "head",
)


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in a lineage: its number of axes there, the way to ours, and
    the way back.
    """

    ndim: int
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]
    rows: Callable[[Tensor], Tensor] | None = (
        None  # a flattened stem as (C, P P channels); `ours` takes it unfolded
    )


VECTOR = Layout(1, lambda t: t, lambda t: t)
MATRIX = Layout(2, lambda t: t, lambda t: t)
TRANSPOSED = Layout(2, lambda t: t.T, lambda t: t.T)
OIHW = Layout(4, lambda t: t, lambda t: t)
HWIO = Layout(4, lambda t: t.permute(3, 2, 0, 1), lambda t: t.permute(2, 3, 1, 0))
CONV1D = Layout(3, lambda t: t.squeeze(2), lambda t: t.unsqueeze(2))
LEADING_VECTOR = Layout(2, lambda t: t.squeeze(0), lambda t: t.unsqueeze(0))
LEADING_TRANSPOSED = Layout(3, lambda t: t.squeeze(0).T, lambda t: t.T.unsqueeze(0))
PATCH_ROWS = Layout(
    2,
    lambda t: t.permute(0, 3, 1, 2),
    lambda t: t.permute(0, 2, 3, 1).flatten(1),
    lambda t: t,
)
PATCH_COLUMNS = replace(
    PATCH_ROWS, theirs=lambda t: t.permute(0, 2, 3, 1).flatten(1).T, rows=lambda t: t.T
)


@dataclass(frozen=True)
class Entry:
    """One tensor of a lineage: its name there, ours (two where one norm serves both
    MLPs), and its layout.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: Layout


@dataclass(frozen=True)
class Lineage:
    """A lineage: what it computes beside the weights (GELU, epsilon, final norm), its
    file kinds, and its table.
    """

    name: str
    whose: str
    modules: tuple[str | None, ...]
    gelu: Gelu
    norm_eps: float
    suffixes: tuple[str, ...]  # of the files it is written to, the usual one first
    evaluation: str  # its transform, a name of images.lineages
    dense: tuple[str, str] = ("weight", "bias")
    norm: tuple[str, str] = ("weight", "bias")
    stem_layout: Layout = OIHW
    token_layouts: tuple[Layout, Layout] = (MATRIX, VECTOR)
    channel_layouts: tuple[Layout, Layout] = (MATRIX, VECTOR)
    head_layout: Layout = MATRIX
    prefixes: tuple[str, ...] = (
        "",
    )  # what may stand before every name; the first is written

    @property
    def final_norm(self) -> bool:
        """Whether the lineage normalises before pooling."""
        return self.modules[7] is not None

    def count_blocks(self, names: Iterable[str]) -> int:
        """How many blocks the names speak of: one more than the highest number among
        those of the token MLPs.
        """
        token_mlp = self.modules[2]
        assert token_mlp is not None
        pattern = re.sub(
            r"\\{(i|i2|_i)\\}", r"_?(\\d*)", re.escape(token_mlp).replace(r"\*", ".+")
        )
        numbers = [
            int(match[1] or 0)
            for name in names
            if (match := re.fullmatch(pattern, name)) and len(match[1]) < 6
        ]
        return max(numbers) + (-1 if "{i2}" in token_mlp else 1) if numbers else 0

    def table(self, num_blocks: int) -> list[Entry]:
        """Every tensor of a Mixer with that many blocks, in the order of computation;
        names without a prefix.
        """
        parts = list(zip(PARTS, self.modules, strict=True))
        places = [
            (0, *parts[0]),
            *((i, *part) for i in range(num_blocks) for part in parts[1:7]),
        ]
        rows: dict[str, Entry] = {}
        for i, ours, theirs in [*places, *((0, *part) for part in parts[7:])]:
            for entry in self._entries(ours, theirs, i, num_blocks) if theirs else []:
                shared = rows.get(entry.theirs)  # one norm for both MLPs of a block
                rows[entry.theirs] = (
                    replace(entry, ours=shared.ours + entry.ours) if shared else entry
                )
        return list(rows.values())

    def _entries(self, ours: str, theirs: str, i: int, num_blocks: int) -> list[Entry]:
        is_norm = "norm" in ours
        numbers = {
            "i": i,
            "i2": i + 2,
            "_i": f"_{i}" if i else "",
            "L2": num_blocks + 2,
            "L4": num_blocks + 4,
        }
        layouts = (VECTOR, VECTOR) if is_norm else self._dense_layouts(ours)
        return [
            Entry(
                theirs.format(**numbers).replace("*", leaf),
                (f"{ours.format(i=i)}.{name}",),
                layout,
            )
            for leaf, name, layout in zip(
                self.norm if is_norm else self.dense,
                ("weight", "bias"),
                layouts,
                strict=True,
            )
        ]

    def _dense_layouts(self, ours: str) -> tuple[Layout, Layout]:
        if "mlp_tokens" in ours:
            return self.token_layouts
        if "mlp_channels" in ours:
            return self.channel_layouts
        return (
            self.stem_layout if ours.startswith("stem") else self.head_layout
        ), VECTOR


_FLAX: dict[str, Any] = {
    "gelu": "tanh",
    "norm_eps": 1e-6,
    "suffixes": (".npz",),
    "evaluation": "google",
    "dense": ("kernel", "bias"),
    "norm": ("scale", "bias"),
    "stem_layout": HWIO,
    "token_layouts": (TRANSPOSED, VECTOR),
    "channel_layouts": (TRANSPOSED, VECTOR),
    "head_layout": TRANSPOSED,
}

GOOGLE = Lineage(
    "google",
    "google-research/vision_transformer (vit_jax, Flax Linen): the files of gs://mixer_models",
    (
        "stem/*",
        "MixerBlock_{i}/LayerNorm_0/*",
        "MixerBlock_{i}/token_mixing/Dense_0/*",
        "MixerBlock_{i}/token_mixing/Dense_1/*",
        "MixerBlock_{i}/LayerNorm_1/*",
        "MixerBlock_{i}/channel_mixing/Dense_0/*",
        "MixerBlock_{i}/channel_mixing/Dense_1/*",
        "pre_head_layer_norm/*",
        "head/*",
    ),
    **_FLAX,
)

BIGVISION = replace(
    GOOGLE,
    name="bigvision",
    whose="google-research/big_vision: the same names under params/ (or opt/target/ in a training checkpoint)",
    prefixes=("params/", "opt/target/"),
)

GOOGLE_PRELINEN = replace(
    GOOGLE,
    name="google_prelinen",
    whose="Google's code before Flax Linen, as big_vision's loader still reads it",
    modules=(
        "embedding/*",
        "Mixer/encoderblock_{i}/LayerNorm_0/*",
        "Mixer/encoderblock_{i}/token_mixing_phase_0/*1",
        "Mixer/encoderblock_{i}/token_mixing_phase_0/*2",
        "Mixer/encoderblock_{i}/LayerNorm_1/*",
        "Mixer/encoderblock_{i}/channel_mixing_phase_0/*1",
        "Mixer/encoderblock_{i}/channel_mixing_phase_0/*2",
        "Mixer/encoder_norm/*",
        "head/*",
    ),
    token_layouts=(LEADING_TRANSPOSED, LEADING_VECTOR),
    channel_layouts=(LEADING_TRANSPOSED, LEADING_VECTOR),
    prefixes=("", "params/", "opt/target/"),
)

TIMM = Lineage(
    "timm",
    "huggingface/pytorch-image-models",
    tuple(f"{part}.*" for part in PARTS),
    gelu="erf",
    norm_eps=1e-6,
    suffixes=(".safetensors", ".pth", ".pt", ".bin"),
    evaluation="timm",
)

MMPRETRAIN = Lineage(
    "mmpretrain",
    "open-mmlab/mmpretrain (and mmcls before it)",
    (
        "backbone.patch_embed.projection.*",
        "backbone.layers.{i}.ln1.*",
        "backbone.layers.{i}.token_mix.layers.0.0.*",
        "backbone.layers.{i}.token_mix.layers.1.*",
        "backbone.layers.{i}.ln2.*",
        "backbone.layers.{i}.channel_mix.layers.0.0.*",
        "backbone.layers.{i}.channel_mix.layers.1.*",
        "backbone.ln1.*",
        "head.fc.*",
    ),
    gelu="erf",
    norm_eps=1e-5,
    suffixes=(".pth", ".pt", ".bin", ".safetensors"),
    evaluation="mmpretrain",
)

LAVISH619 = Lineage(
    "lavish619",
    "lavish619/MLP-Mixer-PyTorch: no final norm",
    (
        "patch_breaker.*",
        "mixer_layers.{i}.token_mixer.layer_norm.*",
        "mixer_layers.{i}.token_mixer.mlp_block.fc1.*",
        "mixer_layers.{i}.token_mixer.mlp_block.fc2.*",
        "mixer_layers.{i}.channel_mixer.layer_norm.*",
        "mixer_layers.{i}.channel_mixer.mlp_block.fc1.*",
        "mixer_layers.{i}.channel_mixer.mlp_block.fc2.*",
        None,
        "final_fc.*",
    ),
    gelu="erf",
    norm_eps=1e-5,
    suffixes=(".pth", ".pt", ".bin", ".safetensors"),
    evaluation="paper",
)

LUCIDRAINS = replace(
    LAVISH619,
    name="lucidrains",
    whose="lucidrains/mlp-mixer-pytorch: flattened patches, token MLPs as 1 x 1 convolutions",
    modules=(
        "1.*",
        "{i2}.0.norm.*",
        "{i2}.0.fn.0.*",
        "{i2}.0.fn.3.*",
        "{i2}.1.norm.*",
        "{i2}.1.fn.0.*",
        "{i2}.1.fn.3.*",
        "{L2}.*",
        "{L4}.*",
    ),
    stem_layout=PATCH_ROWS,
    token_layouts=(CONV1D, VECTOR),
)

JEONSWORLD = replace(
    LAVISH619,
    name="jeonsworld",
    whose="jeonsworld/MLP-Mixer-Pytorch",
    modules=(
        "stem.*",
        "layer.{i}.pre_norm.*",
        "layer.{i}.token_mlp_block.fc0.*",
        "layer.{i}.token_mlp_block.fc1.*",
        "layer.{i}.post_norm.*",
        "layer.{i}.channel_mlp_block.fc0.*",
        "layer.{i}.channel_mlp_block.fc1.*",
        "pre_head_ln.*",
        "head.*",
    ),
    norm_eps=1e-6,
)

RISHIKKSH20 = replace(
    LAVISH619,
    name="rishikksh20",
    whose="rishikksh20/MLP-Mixer-pytorch",
    modules=(
        "to_patch_embedding.0.*",
        "mixer_blocks.{i}.token_mix.0.*",
        "mixer_blocks.{i}.token_mix.2.net.0.*",
        "mixer_blocks.{i}.token_mix.2.net.3.*",
        "mixer_blocks.{i}.channel_mix.0.*",
        "mixer_blocks.{i}.channel_mix.1.net.0.*",
        "mixer_blocks.{i}.channel_mix.1.net.3.*",
        "layer_norm.*",
        "mlp_head.0.*",
    ),
)

KERAS = Lineage(
    "keras",
    "the keras.io example (mlp_image_classification): one norm for both MLPs of a block, no final norm",
    (
        "layers/dense/vars/*",
        "layers/sequential/layers/mlp_mixer_layer{_i}/normalize/vars/*",
        "layers/sequential/layers/mlp_mixer_layer{_i}/mlp1/layers/dense/vars/*",
        "layers/sequential/layers/mlp_mixer_layer{_i}/mlp1/layers/dense_1/vars/*",
        "layers/sequential/layers/mlp_mixer_layer{_i}/normalize/vars/*",
        "layers/sequential/layers/mlp_mixer_layer{_i}/mlp2/layers/dense/vars/*",
        "layers/sequential/layers/mlp_mixer_layer{_i}/mlp2/layers/dense_1/vars/*",
        None,
        "layers/dense_1/vars/*",
    ),
    gelu="erf",
    norm_eps=1e-6,
    suffixes=(".h5",),
    # its Resizing layer: to the square, bilinear, no antialiasing, no rounding
    evaluation="vit_jax",
    dense=("0", "1"),
    norm=("0", "1"),
    stem_layout=PATCH_COLUMNS,
    token_layouts=(TRANSPOSED, VECTOR),
    channel_layouts=(TRANSPOSED, VECTOR),
    head_layout=TRANSPOSED,
)

_GOOGLES = (GOOGLE, BIGVISION, GOOGLE_PRELINEN)
_SMALL_PORTS = (LAVISH619, LUCIDRAINS, JEONSWORLD, RISHIKKSH20)
LINEAGES = {
    lineage.name: lineage
    for lineage in (*_GOOGLES, TIMM, MMPRETRAIN, *_SMALL_PORTS, KERAS)
}
