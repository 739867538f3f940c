"""What a network expects of an image: its size, how to get there, and the range of the
numbers.

A checkpoint carries this record, because a wrong one costs accuracy in silence.
`resmall` and `resize` are the names of the paper's App. C; `resmall` equals
torchvision's Resize(floor(size / crop_pct)) and CenterCrop(size), as in timm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from ..errors import UserError, unknown
from . import resample
from .decode import Pixels

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
_TAPS = {
    "bilinear": resample.linear,
    "bicubic": resample.cubic,
    "area": resample.area,
}  # of all but Pillow
_LEGAL = {
    "pillow": tuple(_FILTERS),
    "vit_jax": ("bilinear",),
    "big_vision": ("area", "bilinear"),
    "opencv": ("bicubic", "bilinear"),
}


@dataclass(frozen=True)
class Preprocess:
    """The way from a decoded image to the input of a network.

    Args:
        image_size: (H, W) that the network takes, in pixels.
        channels: of the image, 3 for RGB.
        resize: "resmall" scales until both sides cover image_size / crop_pct and crops
            the centre; "resize" squashes both sides to image_size / crop_pct and crops
            the centre; "none" takes only images of image_size.
        crop_pct: the part of the scaled image that the crop keeps, in (0, 1].
        interpolation: the filter of the scaling.
        mean, std: of values in [0, 1], one for each channel or a single one for all.
        resampler: whose arithmetic scales, and so the rounding of the long side, of the
            crop's offset and of values: "pillow" antialiases (floor; half to even;
            nearest), "opencv" does not (floor; half to even; nearest), nor do
            "big_vision" (half to even; floor; towards zero) and "vit_jax" (values stay
            float32).

    Raises:
        UserError: a field has no such value.
    """

    image_size: tuple[int, int]
    channels: int = 3
    resize: Literal["resmall", "resize", "none"] = "resmall"
    crop_pct: float = 0.875
    interpolation: Literal["nearest", "bilinear", "bicubic", "area"] = "bicubic"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    resampler: Literal["pillow", "vit_jax", "big_vision", "opencv"] = "pillow"

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise UserError(
                f"image_size is {self.image_size!r}: expected a height and a width of at least 1 pixel"
            )
        if self.channels < 1:
            raise UserError(f"channels is {self.channels}: expected at least 1")
        if not 0 < self.crop_pct <= 1:
            raise UserError(
                f"crop_pct is {self.crop_pct}: expected a part above 0 and at most 1, such as 0.875"
            )
        for name in ("resize", "interpolation", "resampler"):
            choices = get_args(get_type_hints(Preprocess)[name])
            if getattr(self, name) not in choices:
                raise unknown(name, str(getattr(self, name)), choices)
        if self.interpolation not in _LEGAL[self.resampler]:
            legal = " or ".join(map(repr, _LEGAL[self.resampler]))
            raise UserError(
                f"resampler {self.resampler!r} has no interpolation {self.interpolation!r}: expected {legal}"
            )
        # Lists come from JSON; one number stands for all channels and is written out,
        # so that equal records compare so.
        object.__setattr__(self, "image_size", tuple(self.image_size))
        object.__setattr__(self, "mean", self._each_channel("mean"))
        object.__setattr__(self, "std", self._each_channel("std"))
        if min(self.std) <= 0:
            raise UserError(f"std is {self.std}: expected numbers above 0")

    def _each_channel(self, name: str) -> tuple[float, ...]:
        values = tuple(float(value) for value in getattr(self, name))
        if len(values) not in (1, self.channels) or not all(map(math.isfinite, values)):
            raise UserError(
                f"{name} is {values}: expected one finite number, or {self.channels} (one per channel)"
            )
        return values * self.channels if len(values) == 1 else values

    def fit(self, image: np.ndarray[Any, Any]) -> Pixels:
        """Geometry only: scale and crop uint8 (H', W', C) to uint8 (H, W, C);
        `UserError` for another kind of array.
        """
        fitted = self._fit(image)
        return fitted if fitted.dtype == np.uint8 else np.rint(fitted).astype(np.uint8)

    def _fit(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """As `fit`, but float32 where the resampler does not round."""
        if (
            image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != self.channels
            or 0 in image.shape
        ):
            raise UserError(
                f"cannot fit an array of {image.dtype} {image.shape}: expected uint8 (H, W, {self.channels})"
            )
        scaled = self._scaled_size(image.shape[0], image.shape[1])
        top, left = (
            self._offset(*sides) for sides in zip(scaled, self.image_size, strict=True)
        )
        if scaled != image.shape[:2] and self.resampler != "pillow":
            return self._resample(image, scaled, (top, left))
        if scaled != image.shape[:2]:
            image = _scale(image, *scaled, _FILTERS[self.interpolation])
        return image[top : top + self.image_size[0], left : left + self.image_size[1]]

    def _resample(
        self,
        image: np.ndarray[Any, Any],
        scaled: tuple[int, int],
        offset: tuple[int, int],
    ) -> np.ndarray[Any, Any]:
        """The crop at that offset of the image scaled to that size, rounded as the
        resampler does.
        """
        rows, columns = map(
            _TAPS[self.interpolation], image.shape[:2], scaled, offset, self.image_size
        )
        values = resample.resample(image, rows, columns)
        if self.resampler == "vit_jax":
            return values
        return (
            (np.rint(values) if self.resampler == "opencv" else values)
            .clip(0, 255)
            .astype(np.uint8)
        )

    def _offset(self, scaled: int, kept: int) -> int:
        """Where the crop of a side begins; torchvision's and mmcv's CenterCrop round
        half to even.
        """
        return (
            (scaled - kept) // 2
            if self.resampler == "big_vision"
            else round((scaled - kept) / 2)
        )

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) before the crop, for an image of that height and width."""
        if self.resize == "none":
            if (height, width) != self.image_size:
                raise UserError(
                    f"the image is {height} x {width} (H x W) but must be {self.image_size[0]} x {self.image_size[1]}: "
                    "this preprocessing does not resize"
                )
            return height, width
        least_h, least_w = (
            math.floor(side / self.crop_pct) for side in self.image_size
        )
        if self.resize == "resize":
            return least_h, least_w
        if self.resampler == "big_vision":
            factor = max(
                np.float32(least_h) / np.float32(height),
                np.float32(least_w) / np.float32(width),
            )
            return int(np.rint(np.float32(height) * factor)), int(
                np.rint(np.float32(width) * factor)
            )
        if (
            least_h * width >= least_w * height
        ):  # the height needs the larger scale; integers, to never fall short
            return least_h, least_h * width // height
        return least_w * height // width, least_w

    def normalize(
        self, x_BCHW: UInt8[Tensor, "*B C H W"] | Float32[Tensor, "*B C H W"]
    ) -> Float32[Tensor, "*B C H W"]:
        """Values in 0-255 to float32 (x / 255 - mean) / std, on the device of the
        input.
        """
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=x_BCHW.device).view(
                -1, 1, 1
            )
            for values in (self.mean, self.std)
        )
        return x_BCHW.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)

    def __call__(self, image: np.ndarray[Any, Any]) -> Float32[Tensor, "C H W"]:
        """A decoded image, uint8 (H', W', C), as the network takes it: float32 (C, H,
        W).
        """
        x_HWC = torch.from_numpy(np.array(self._fit(image)))
        return self.normalize(x_HWC.permute(2, 0, 1).contiguous())


def _scale(
    image: np.ndarray[Any, Any], height: int, width: int, method: Image.Resampling
) -> Pixels:
    """Pillow's antialiased resize; it works channel by channel, so that any number of
    channels gets the same result.
    """
    if image.shape[2] == 3:
        scaled = Image.fromarray(np.ascontiguousarray(image)).resize(
            (width, height), method
        )
        return np.array(scaled, dtype=np.uint8)
    planes = [
        Image.fromarray(np.ascontiguousarray(plane))
        for plane in np.moveaxis(image, 2, 0)
    ]
    return np.stack(
        [np.asarray(plane.resize((width, height), method)) for plane in planes], axis=2
    )
