"""How each published lineage turns an image into its input at evaluation.

The records equal the originals in the pixels, given equal decoded images. TensorFlow
decodes JPEG with a faster, coarser DCT unless told otherwise, and so differs from
everybody else (by about one grey level on average) before any resizing.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import unknown
from ...images.preprocess import Preprocess

Size = tuple[int, int]


def eval_preprocess(lineage: str, image_size: Size, channels: int = 3) -> Preprocess:
    """Return the evaluation transform of a lineage.

    Args:
        lineage: A key of `EVAL_TRANSFORMS`.
        image_size: (H, W) of the network's input in pixels.
        channels: Of the image, 3 for RGB.

    Raises:
        UserError: There is no such key.
    """
    if lineage not in EVAL_TRANSFORMS:
        raise unknown("lineage", lineage, EVAL_TRANSFORMS)
    return EVAL_TRANSFORMS[lineage](image_size, channels)


def paper(image_size: Size, channels: int) -> Preprocess:
    """Return the paper's transform, as this package's own networks use it.

    App. C: resmall to 256, crop 224, values in [-1, 1]; scaled by Pillow.

    Args:
        image_size: (H, W) of the network's input in pixels.
        channels: Of the image.
    """
    return Preprocess(image_size, channels)


def google(image_size: Size, channels: int) -> Preprocess:
    """Return the transform of google-research/big_vision, configs/mlp_mixer_i1k.py.

    It is resize_small(256)|central_crop(224)|value_range(-1, 1), and its `resize_small`
    scales by area, without antialiasing. Google's .npz files get this one, because
    their published accuracy was measured so (the paper's App. C); see `vit_jax` for
    what else is in use.

    Args:
        image_size: (H, W) of the network's input in pixels.
        channels: Of the image.
    """
    return Preprocess(
        image_size, channels, interpolation="area", resampler="big_vision"
    )


def vit_jax(image_size: Size, channels: int) -> Preprocess:
    """Return the transform of google-research/vision_transformer, input_pipeline.py.

    It is tf.image.resize to the square and (x - 127.5) / 127.5: the code that came with
    the .npz files, made for fine-tuning, with no crop and no antialiasing. Mixer-B/16
    of ImageNet-1k measures about one point less with a plain resize: 75.31 %
    (sayakpaul/mlpmixer-jax2tf), not the paper's 76.44 %.

    Args:
        image_size: (H, W) of the network's input in pixels.
        channels: Of the image.
    """
    return Preprocess(
        image_size,
        channels,
        resize="resize",
        crop_pct=1.0,
        interpolation="bilinear",
        resampler="vit_jax",
    )


def timm(image_size: Size, channels: int) -> Preprocess:
    """Return the transform of timm's mixer_*.goog_*.

    It is the pretrained_cfg of timm/models/mlp_mixer.py, through
    timm.data.create_transform.

    Args:
        image_size: (H, W) of the network's input in pixels.
        channels: Of the image.
    """
    return Preprocess(
        image_size,
        channels,
        interpolation="bicubic",
        crop_pct=0.875,
        mean=(0.5,),
        std=(0.5,),
    )


def timm_miil(image_size: Size, channels: int) -> Preprocess:
    """Return the transform of timm's mixer_*.miil_*, as their own cfg states it.

    Alibaba-MIIL/ImageNet21K trained them on values in [0, 1].

    Args:
        image_size: (H, W) of the network's input in pixels.
        channels: Of the image.
    """
    return Preprocess(
        image_size,
        channels,
        interpolation="bilinear",
        crop_pct=0.875,
        mean=(0.0,),
        std=(1.0,),
    )


def mmpretrain(image_size: Size, channels: int) -> Preprocess:
    """Return the transform of open-mmlab/mmpretrain, configs/mlp_mixer.

    It is ResizeEdge(256, short, bicubic) by cv2, CenterCrop(224), and
    (x - 127.5) / 127.5.

    Args:
        image_size: (H, W) of the network's input in pixels.
        channels: Of the image.
    """
    return Preprocess(image_size, channels, interpolation="bicubic", resampler="opencv")


EVAL_TRANSFORMS: dict[str, Callable[[Size, int], Preprocess]] = {
    "paper": paper,
    "google": google,
    "vit_jax": vit_jax,
    "timm": timm,
    "timm_miil": timm_miil,
    "mmpretrain": mmpretrain,
}
