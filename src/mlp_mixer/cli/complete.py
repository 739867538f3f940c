"""Names for the Tab key of a shell: written out, and tested, because whoever owns them
loads torch for seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RECIPES = (
    "digits fashion_mnist fashion_mnist_12ep fashion_mnist_28ep fashion_mnist_100ep cifar10 cifar10_16ep "
    "cifar10_50ep cifar10_60ep cifar10_200ep cifar100_200ep keras_cifar100 photos imagenet_b16 imagenet_l16 "
    "imagenet21k_b16 imagenet21k_l16 jft_s16 jft_b16 jft_l16 jft_h14 bigvision_b16 deit_b16 sam_b16 gsam_b16 "
    "finetune_imagenet finetune_imagenet_448 finetune_cifar10 finetune_small"
)
MODELS = (
    "mixer_s32 mixer_s16 mixer_s8 mixer_b32 mixer_b16 mixer_l32 mixer_l16 mixer_h14 mixer_pico2 mixer_pico7 "
    "mixer_micro4 mixer_nano4 mixer_nano2 mixer_tiny4 mixer_tiny2 untied_s32 grouped_s32 views_s32 pyramid_s16 "
    "untied_nano4 grouped_nano4 views_nano4 pyramid_nano4 gmixer_12 gmixer_24 resmlp_12 resmlp_24 resmlp_36 "
    "resmlp_big_24 gmlp_ti16 gmlp_s16 gmlp_b16"
)
WEIGHTS = (
    "mixer_b16.goog_in1k mixer_l16.goog_in1k mixer_b16.goog_in21k mixer_l16.goog_in21k mixer_b16.goog_sam_in1k "
    "mixer_b32.goog_sam_in1k mixer_b16.goog_gsam_in1k mixer_b32.goog_gsam_in1k mixer_s16.goog_gsam_in1k "
    "mixer_s32.goog_gsam_in1k mixer_s8.goog_gsam_in1k mixer_b16.timm_goog_in1k mixer_l16.timm_goog_in1k "
    "mixer_b16.timm_goog_in21k mixer_l16.timm_goog_in21k mixer_b16.timm_miil_in21k mixer_b16.timm_miil_in21k_ft_in1k "
    "mixer_b16.mmpretrain_in1k mixer_l16.mmpretrain_in1k"
)


def recipes(incomplete: str) -> list[str]:
    """Recipes; nothing for another beginning, and then the shell offers files."""
    return [name for name in RECIPES.split() if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Architectures."""
    return [name for name in MODELS.split() if name.startswith(incomplete)]


def weights(incomplete: str) -> list[str]:
    """The package's and published weights once something is typed; before, the shell
    offers files, meant more often.
    """
    box = [
        path.stem
        for path in Path(__file__).parents[1].glob("weights/bundled/*.safetensors")
    ]
    return [
        name
        for name in (*box, *WEIGHTS.split())
        if incomplete and name.startswith(incomplete)
    ]


Weights = Annotated[
    str,
    typer.Argument(
        help="Weights of any kind, the folder of a run, or a name.",
        autocompletion=weights,
    ),
]
WeightsOrBundled = Annotated[
    str | None,
    typer.Argument(
        help="As everywhere; none stands for the small model in the package.",
        autocompletion=weights,
    ),
]
