"""The lineages: for every project its names, its layouts, and what its code computes.

Each row of `modules` names a part of the Mixer, in the order of `lineage.PARTS`; the
placeholders are explained there. Read each as two columns: our part, their part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .lineage import (
    CONV1D,
    HWIO,
    LEADING_TRANSPOSED,
    LEADING_VECTOR,
    PARTS,
    PATCH_COLUMNS,
    PATCH_ROWS,
    TRANSPOSED,
    VECTOR,
    Lineage,
)

# What all files of Google have in common.
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
    "google-research/vision_transformer (vit_jax, Flax Linen): gs://mixer_models",
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
    whose="google-research/big_vision: Google's names under params/",
    # opt/target/ is where a training checkpoint keeps the weights.
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
    "lavish619/MLP-Mixer-PyTorch",
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
    whose="lucidrains/mlp-mixer-pytorch",
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
    # Patches are flattened by einops; the token MLPs are convolutions of width 1.
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

# One norm serves both MLPs of a block, and there is no final norm.
KERAS = Lineage(
    "keras",
    "the keras.io example (mlp_image_classification)",
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
    # As its Resizing layer: to the square, bilinear, no antialiasing, no rounding.
    evaluation="vit_jax",
    dense=("0", "1"),
    norm=("0", "1"),
    stem_layout=PATCH_COLUMNS,
    token_layouts=(TRANSPOSED, VECTOR),
    channel_layouts=(TRANSPOSED, VECTOR),
    head_layout=TRANSPOSED,
)

# Its code computes the exact GELU, also with the weights that it took from Google.
KCAM = replace(
    GOOGLE,
    name="kcam",
    whose="leondgarse/keras_cv_attention_models: Google's names, in Keras's old .h5",
    gelu="erf",
    norm_eps=1e-5,
    suffixes=(".h5",),
    norm=("gamma", "beta"),
)

_GOOGLES = (GOOGLE, BIGVISION, GOOGLE_PRELINEN)
_SMALL_PORTS = (LAVISH619, LUCIDRAINS, JEONSWORLD, RISHIKKSH20)
LINEAGES = {
    lineage.name: lineage
    for lineage in (*_GOOGLES, TIMM, MMPRETRAIN, *_SMALL_PORTS, KERAS, KCAM)
}
