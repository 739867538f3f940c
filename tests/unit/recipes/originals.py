"""The recipes of others as their sources state them: numbers written down by hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from .settings_in_words import Setting, sharpness


class Value(NamedTuple):
    """What a source says of a setting.

    Attributes:
        text: Its value; or one for each recipe, by name.
        source: Where it stands; "" stands for the source of the group.
        here: Why the recipe has another value; "" says that it has the same.
    """

    text: str | dict[str, str]
    source: str = ""
    here: str = ""


class Group(NamedTuple):
    """Recipes of one origin."""

    title: str
    source: str
    recipes: tuple[str, ...]
    values: dict[str, Value]
    extra: Mapping[str, Setting] = MappingProxyType({})


def by(pairs: dict[str, str]) -> dict[str, str]:
    """Spell out {"a b": value} as {"a": value, "b": value}."""
    return {name: value for names, value in pairs.items() for name in names.split()}


JFT = "jft_s32 jft_s16 jft_b32 jft_b16 jft_l32 jft_l16_7ep jft_l16 jft_h14"
LARGE = "imagenet_b16 imagenet_l16 imagenet21k_b16 imagenet21k_l16"
TF_CROP = "TensorFlow's, 5 to 100 %, bilinear, flips"
SHORT_SIDE = "the short side to 256, the middle 224"
DEIT_CROP = "torchvision's, 8 to 100 %, bicubic, flips"
TRIPLES = "batches hold whole triples, for 8 or 16 processes"

PAPER = Group(
    "The paper",
    "arXiv 2105.01601, Table 4",
    tuple(f"{LARGE} {JFT}".split()),
    {
        "optimiser": Value("Adam (0.9, 0.999), clipped at 1", "Section 3"),
        "learning rate": Value(
            by(
                {
                    f"{LARGE} jft_l32 jft_l16_7ep jft_l16 jft_h14": "0.001",
                    "jft_s32 jft_s16 jft_b32 jft_b16": "0.003",
                }
            )
        ),
        "weight decay": Value(by({LARGE: "0.1", JFT: "0.03"})),
        "batch": Value("4,096", "Section 3"),
        "length": Value(
            by(
                {
                    LARGE: "300 epochs",
                    "jft_s32 jft_s16": "5 epochs",
                    "jft_b32 jft_b16 jft_l32 jft_l16_7ep": "7 epochs",
                    "jft_l16 jft_h14": "14 epochs",
                }
            ),
            "Tables 3 and 4",
        ),
        "schedule": Value(
            "10,000 steps of warm-up, linear to 0 of the peak", "Section 3"
        ),
        "loss": Value(
            "not stated",
            here="the released configuration has sigmoid (`bigvision_b16`)",
        ),
        "crop": Value(TF_CROP, "Section 3, big_vision"),
        "policy": Value(
            by(
                {
                    "imagenet_b16 imagenet_l16": "RandAugment (2, 15)",
                    "imagenet21k_b16": "RandAugment (2, 10)",
                    "imagenet21k_l16": "RandAugment (2, 20)",
                    JFT: "none",
                }
            )
        ),
        "mixing": Value(
            by(
                {
                    "imagenet_b16 imagenet_l16 imagenet21k_l16": "mixup 0.5",
                    "imagenet21k_b16": "mixup 0.2",
                    JFT: "none",
                }
            )
        ),
        "stochastic depth": Value(
            by({LARGE: "0.1, linear, not rescaled", JFT: "none"}), "Table 4, big_vision"
        ),
        "evaluation": Value(SHORT_SIDE, "App. C"),
    },
)

BIG_VISION = Group(
    "big_vision's Mixer-B/16",
    "big_vision, configs/mlp_mixer_i1k.py",
    ("bigvision_b16", "bigvision_b16_60ep"),
    {
        "optimiser": Value("Adam (0.9, 0.999), clipped at 1"),
        "learning rate": Value("0.001"),
        # wd=1e-4 there, after the learning rate.
        "weight decay": Value("0.1"),
        "batch": Value("4,096"),
        # 60 in its mode regression_test.
        "length": Value(
            {"bigvision_b16": "300 epochs", "bigvision_b16_60ep": "60 epochs"}
        ),
        "schedule": Value("10,000 steps of warm-up, linear to 1e-05 of the peak"),
        "loss": Value("sigmoid, head bias -6.9"),
        "crop": Value(TF_CROP),
        "policy": Value("RandAugment (2, 15)"),
        "mixing": Value("mixup 0.5"),
        "stochastic depth": Value("0.1, linear, not rescaled", "models/mlp_mixer.py"),
        "evaluation": Value(SHORT_SIDE),
    },
)

GSAM = Group(
    "GSAM and SAM",
    "big_vision, configs/proj/gsam",
    ("gsam_s32", "gsam_s16", "gsam_s8", "gsam_b32", "gsam_b16", "sam_b16"),
    {
        "optimiser": Value("Adam (0.9, 0.999), clipped at 1"),
        "sharpness": Value(
            {
                "gsam_s32": "rho 0.5 to 0, alpha 0.2",
                "gsam_s16": "rho 0.5 to 0, alpha 0.6",
                "gsam_s8": "rho 0.5 to 0.1, alpha 0.1",
                "gsam_b32": "rho 0.7 to 0.2, alpha 0.05",
                "gsam_b16": "rho 0.5 to 0.2, alpha 0.01",
                "sam_b16": "not found",
            },
            "arXiv 2203.08065, its table",
            "SAM's own rho was not found: 0.5 is GSAM's for B/16",
        ),
        "learning rate": Value("0.003"),
        # wd=1e-3 there, after the learning rate of 3e-3: 0.3 in round numbers.
        "weight decay": Value("0.3"),
        "batch": Value("4,096"),
        "length": Value("300 epochs"),
        "schedule": Value("10,000 steps of warm-up, linear to 0.01 of the peak"),
        "loss": Value("sigmoid, head bias -10"),
        "crop": Value(TF_CROP),
        "policy": Value("none"),
        "mixing": Value("none"),
        "stochastic depth": Value("none"),
        "evaluation": Value(SHORT_SIDE),
    },
    {"sharpness": sharpness},
)

DEIT = Group(
    "DeiT",
    "arXiv 2012.12877, Table 9",
    ("deit_b16",),
    {
        "optimiser": Value("Adam (0.9, 0.999), not clipped"),
        "learning rate": Value("0.001"),
        "weight decay": Value("0.05"),
        "batch": Value("1,024, each image 3 times", here=TRIPLES),
        "length": Value("300 epochs"),
        "schedule": Value(
            "5 epochs of warm-up, cosine to 0.01 of the peak",
            "facebookresearch/deit, main.py",
        ),
        "loss": Value("softmax, smoothing 0.1"),
        "crop": Value(DEIT_CROP, "facebookresearch/deit, datasets.py"),
        "policy": Value("timm's rand-m9-mstd0.5-inc1, erasing 0.25"),
        "mixing": Value("mixup 0.8, CutMix 1"),
        "stochastic depth": Value(
            "0.1, linear, rescaled", "timm, vision_transformer.py"
        ),
        "evaluation": Value(SHORT_SIDE, "facebookresearch/deit, datasets.py"),
    },
)

RESMLP = Group(
    "ResMLP",
    "facebookresearch/deit#106",
    ("resmlp_12", "resmlp_24", "resmlp_36", "resmlp_big_24"),
    {
        "optimiser": Value("LAMB (0.9, 0.999), clipped at 1", "apex, FusedLAMB"),
        "learning rate": Value("0.005"),
        "weight decay": Value("0.2"),
        "batch": Value("2,048, each image 3 times", here=TRIPLES),
        "length": Value("400 epochs"),
        "schedule": Value(
            "5 epochs of warm-up, cosine to 0.002 of the peak",
            "deit#106; the end: main.py",
        ),
        "loss": Value("softmax, smoothing 0.1"),
        "crop": Value(DEIT_CROP, "facebookresearch/deit, datasets.py"),
        "policy": Value("timm's rand-m9-mstd0.5-inc1, erasing 0.25"),
        "mixing": Value("mixup 0.8, CutMix 1"),
        "stochastic depth": Value(
            "0.05, constant, rescaled",
            "deit#106; constant: resmlp_models.py",
            "of the larger ones none was found: assumed",
        ),
        "evaluation": Value("the short side to 248, the middle 224", "deit#113"),
    },
)

GMLP = Group(
    "gMLP",
    "arXiv 2105.08050 (from memory)",
    ("gmlp_ti16", "gmlp_s16", "gmlp_b16"),
    {
        "optimiser": Value("Adam (0.9, 0.999), clipped at 1"),
        "learning rate": Value("0.001"),
        "weight decay": Value("0.05"),
        "batch": Value("4,096"),
        "length": Value("300 epochs"),
        "schedule": Value("10,000 steps of warm-up, cosine to 0 of the peak"),
        "loss": Value("softmax, smoothing 0.1"),
        "crop": Value("not found", here="DeiT's"),
        "policy": Value("AutoAugment"),
        "mixing": Value("mixup 0.8, CutMix 1"),
        "stochastic depth": Value(
            {"gmlp_ti16": "none", "gmlp_s16": "0.05", "gmlp_b16": "0.2"},
            here="how it is spread was not found",
        ),
        "evaluation": Value("not found", here="DeiT's"),
    },
)

A2 = Group(
    "timm's A2, made for ResNet-50",
    "mmpretrain, resnet50_8xb256-rsb-a2-300e_in1k.py",
    ("a2_b16", "a2_gmixer_12", "a2_gmixer_24"),
    {
        "optimiser": Value(
            "LAMB (0.9, 0.999), clipped at 1",
            "timm, optim/lamb.py",
            "the loss is a sum over the classes, its gradient longer than there",
        ),
        "learning rate": Value("0.005"),
        "weight decay": Value("0.02"),
        "batch": Value("2,048, each image 3 times", here=TRIPLES),
        "length": Value("300 epochs"),
        "schedule": Value("5 epochs of warm-up, cosine to 0.0002 of the peak"),
        "loss": Value("sigmoid, head bias 0"),
        "crop": Value(DEIT_CROP),
        "policy": Value("timm's rand-m7-mstd0.5-inc1"),
        "mixing": Value("mixup 0.1, CutMix 1"),
        "stochastic depth": Value("0.05, linear, rescaled", "timm, resnet.py"),
        "evaluation": Value(
            "the short side to 236, the middle 224", here="timm rounds 224 / 0.95 down"
        ),
    },
)

FINETUNING = Group(
    "Fine-tuning",
    "arXiv 2105.01601, App. C",
    (
        "finetune_imagenet",
        "finetune_imagenet_448",
        "finetune_cifar10",
        "finetune_small",
    ),
    {
        "optimiser": Value(
            "SGD, momentum 0.9 in bf16, clipped at 1", "vit_jax, configs/common.py"
        ),
        "learning rate": Value(
            "0.03",
            "vit_jax, configs/mixer_base16_cifar10.py; the paper searches 0.003 to 0.06",
        ),
        "weight decay": Value("0"),
        "batch": Value("512"),
        "length": Value(
            by(
                {
                    "finetune_imagenet finetune_imagenet_448": "20,000 steps",
                    "finetune_cifar10": "10,000 steps",
                    "finetune_small": "500 steps",
                }
            ),
            "ViT's Table 4 (from memory)",
        ),
        "schedule": Value(
            by(
                {
                    "finetune_imagenet finetune_imagenet_448 finetune_cifar10": (
                        "500 steps of warm-up, cosine to 0 of the peak"
                    ),
                    "finetune_small": "100 steps of warm-up, cosine to 0 of the peak",
                }
            ),
            "vit_jax; big_vision, configs/transfer.py",
        ),
        "loss": Value("softmax"),
        "crop": Value(TF_CROP, "vit_jax, input_pipeline.py"),
        "policy": Value("none"),
        "mixing": Value("none"),
        "stochastic depth": Value("none"),
        "evaluation": Value(
            {
                "finetune_imagenet": SHORT_SIDE,
                "finetune_imagenet_448": "not stated",
                "finetune_cifar10": "the whole image",
                "finetune_small": SHORT_SIDE,
            },
            "App. C; CIFAR-10: vit_jax, input_pipeline.py",
            "at 448 the same share as at 224",
        ),
    },
)

GROUPS = (PAPER, BIG_VISION, GSAM, DEIT, RESMLP, GMLP, A2, FINETUNING)
