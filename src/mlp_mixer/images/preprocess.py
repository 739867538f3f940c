"""What a network expects of an image: its size, how to get there, the range of numbers.

A checkpoint carries this record, because a wrong one costs accuracy in silence.
`resmall` and `resize` are the names of the paper's App. C; `resmall` equals
torchvision's Resize(floor(size / crop_pct)) and CenterCrop(size), as in timm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import numpy as np
from PIL import Image

from ..config import plain_numbers
from ..errors import UserError, unknown
from . import resample
from .decode import Pixels

if TYPE_CHECKING:
    # The decoders of a server fit pictures in small processes without torch.
    import torch
    from jaxtyping import Float32, UInt8
    from torch import Tensor

Array = np.ndarray[Any, Any]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
# Of all resamplers but Pillow.
_TAPS = {
    "bilinear": resample.linear,
    "bicubic": resample.cubic,
    "area": resample.area,
}
# Pixels of the scaled image for each pixel of the crop, above which only the crop is
# computed. Below it Pillow itself is faster, and its very bits are what was always used.
_MOST_SCALED = 32
# The scaled image has 100 times the pixels of the crop then; of 1e-5 no memory has them.
_LEAST_CROP = 0.1
_LEGAL = {
    "pillow": tuple(_FILTERS),
    "vit_jax": ("bilinear",),
    "big_vision": ("area", "bilinear"),
    "opencv": ("bicubic", "bilinear"),
}


@dataclass(frozen=True)
class Preprocess:
    """Describe the way from a decoded image to the input of a network.

    Attributes:
        image_size: (H, W) that the network takes, in pixels.
        channels: Of the image, 3 for RGB.
        resize: "resmall" scales until both sides cover image_size / crop_pct and crops
            the centre; "resize" squashes both sides to image_size / crop_pct and crops
            the centre; "none" takes only images of image_size.
        crop_pct: The part of the scaled image that the crop keeps, in [0.1, 1].
        interpolation: The filter of the scaling.
        mean: Of values in [0, 1], one for each channel or a single one for all.
        std: Likewise.
        resampler: Whose arithmetic scales, and so the rounding of the long side, of the
            crop's offset and of values: "pillow" antialiases (floor; half to even;
            nearest), "opencv" does not (floor; half to even; nearest), nor do
            "big_vision" (half to even; floor; towards zero) and "vit_jax" (values stay
            float32).

    Raises:
        UserError: A field has no such value.
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
        # A checkpoint carries it as JSON, which has no numbers of NumPy.
        for name in ("image_size", "channels", "crop_pct", "mean", "std"):
            object.__setattr__(self, name, plain_numbers(getattr(self, name)))
        is_pair = isinstance(self.image_size, (tuple, list))
        sides = self.image_size if is_pair else ()
        # True is a number too.
        if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
            raise UserError(
                f"image_size is {self.image_size!r}: expected a height and a width of at "
                "least 1 pixel"
            )
        if type(self.channels) is not int or self.channels < 1:
            raise UserError(f"channels is {self.channels!r}: expected at least 1")
        is_number = type(self.crop_pct) in (int, float)
        if not is_number or not _LEAST_CROP <= self.crop_pct <= 1:
            raise UserError(
                f"crop_pct is {self.crop_pct!r}: expected a part from {_LEAST_CROP} to 1, "
                "such as 0.875"
            )
        for name in ("resize", "interpolation", "resampler"):
            choices = get_args(get_type_hints(Preprocess)[name])
            word = getattr(self, name)
            if word not in choices:
                raise unknown(name, str(word), choices)
        if self.interpolation not in _LEGAL[self.resampler]:
            legal = " or ".join(map(repr, _LEGAL[self.resampler]))
            raise UserError(
                f"resampler {self.resampler!r} has no interpolation "
                f"{self.interpolation!r}: expected {legal}"
            )
        # Lists come from JSON; one number stands for all channels and is written out,
        # so that equal records compare so.
        object.__setattr__(self, "image_size", tuple(self.image_size))
        object.__setattr__(self, "mean", self._each_channel("mean"))
        object.__setattr__(self, "std", self._each_channel("std"))
        if min(self.std) <= 0:
            raise UserError(f"std is {self.std}: expected numbers above 0")

    def _each_channel(self, name: str) -> tuple[float, ...]:
        given = getattr(self, name)
        # One number stands for all channels, also without a tuple around it.
        given = given if isinstance(given, (tuple, list)) else (given,)
        values = tuple(map(float, given))
        if len(values) not in (1, self.channels) or not all(map(math.isfinite, values)):
            raise UserError(
                f"{name} is {values}: expected one finite number, or {self.channels} "
                "(one per channel)"
            )
        return values * self.channels if len(values) == 1 else values

    def fit(self, image: Array) -> Pixels:
        """Scale and crop an image; the values stay in 0-255.

        Args:
            image: uint8 (H', W', C).

        Returns:
            uint8 (H, W, C).

        Raises:
            UserError: The array is of another kind.
        """
        fitted = self._fit(image)
        if fitted.dtype == np.uint8:
            return fitted
        return np.rint(fitted).astype(np.uint8)

    def fit_image(self, image: Image.Image) -> Array:
        """Do as `fit` with an image of Pillow's, and without a copy of all its pixels.

        Args:
            image: Upright, of the mode RGB or L as `channels` say.

        Returns:
            uint8 (H, W, C); float32 where the resampler does not round.
        """
        height, width = self.image_size
        scaled = self._scaled_size(image.height, image.width)
        long = scaled[0] * scaled[1] > _MOST_SCALED * height * width
        if self.resampler != "pillow" or long:
            return self._fit(self._pixels_of(image))
        image = image.resize(scaled[::-1], _FILTERS[self.interpolation])
        top = self._offset(scaled[0], height)
        left = self._offset(scaled[1], width)
        return self._pixels_of(image)[top : top + height, left : left + width]

    def _pixels_of(self, image: Image.Image) -> Pixels:
        shape = (image.height, image.width, self.channels)
        return np.asarray(image).reshape(shape)

    def seen(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return which part of an image `fit` keeps, without what the crop cuts off.

        Args:
            height: Of the image, in pixels.
            width: Of the image, in pixels.

        Returns:
            (top, left, bottom, right) as shares of the height and the width, 0 to 1.

        Raises:
            UserError: The preprocessing takes no image of that size.
        """
        scaled_h, scaled_w = self._scaled_size(height, width)
        top = self._offset(scaled_h, self.image_size[0])
        left = self._offset(scaled_w, self.image_size[1])
        bottom = top + self.image_size[0]
        right = left + self.image_size[1]
        return top / scaled_h, left / scaled_w, bottom / scaled_h, right / scaled_w

    def _fit(self, image: Array) -> Array:
        """Do as `fit`, but return float32 where the resampler does not round."""
        right = image.dtype == np.uint8 and image.ndim == 3 and 0 not in image.shape
        if not right or image.shape[2] != self.channels:
            raise UserError(
                f"cannot fit an array of {image.dtype} {image.shape}: expected uint8 "
                f"(H, W, {self.channels})"
            )
        height, width = self.image_size
        scaled = self._scaled_size(image.shape[0], image.shape[1])
        top = self._offset(scaled[0], height)
        left = self._offset(scaled[1], width)
        if scaled != image.shape[:2]:
            if self.resampler != "pillow":
                return self._resample(image, scaled, (top, left))
            if scaled[0] * scaled[1] > _MOST_SCALED * height * width:
                return self._crop_of_long(image, scaled, (top, left))
            image = _scale(image, *scaled, _FILTERS[self.interpolation])
        return image[top : top + height, left : left + width]

    def _resample(
        self, image: Array, scaled: tuple[int, int], offset: tuple[int, int]
    ) -> Array:
        """Crop at that offset the image scaled to that size, rounded as theirs."""
        taps = _TAPS[self.interpolation]
        rows = taps(image.shape[0], scaled[0], offset[0], self.image_size[0])
        columns = taps(image.shape[1], scaled[1], offset[1], self.image_size[1])
        values = resample.resample(image, rows, columns)
        if self.resampler == "vit_jax":
            return values
        if self.resampler == "opencv":
            values = np.rint(values)
        return values.clip(0, 255).astype(np.uint8)

    def _crop_of_long(
        self, image: Array, scaled: tuple[int, int], offset: tuple[int, int]
    ) -> Array:
        """Return what Pillow's scaling and a crop would, of which it makes only the crop.

        Of an image of 30000 x 10 pixels, all but a part in 3,000 would be thrown away.
        """
        taps = []
        for axis, kept in enumerate(self.image_size):
            size = image.shape[axis]
            taps.append(
                resample.antialiased(
                    self.interpolation, size, scaled[axis], offset[axis], kept
                )
            )
        return resample.resample_in_two_steps(image, *taps)

    def _offset(self, scaled: int, kept: int) -> int:
        """Return where the crop of a side begins."""
        if self.resampler == "big_vision":
            return (scaled - kept) // 2
        # torchvision's and mmcv's CenterCrop round half to even, as Python does.
        return round((scaled - kept) / 2)

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) before the crop, for an image of that size."""
        if self.resize == "none":
            if (height, width) != self.image_size:
                raise UserError(
                    f"the image is {height} x {width} (H x W) but must be "
                    f"{self.image_size[0]} x {self.image_size[1]}: "
                    "this preprocessing does not resize"
                )
            return height, width
        least_h = math.floor(self.image_size[0] / self.crop_pct)
        least_w = math.floor(self.image_size[1] / self.crop_pct)
        if self.resize == "resize":
            return least_h, least_w
        if self.resampler == "big_vision":
            # In float32, as TensorFlow computes it.
            h = np.float32(height)
            w = np.float32(width)
            factor = max(np.float32(least_h) / h, np.float32(least_w) / w)
            return int(np.rint(h * factor)), int(np.rint(w * factor))
        # The side that needs the larger scale decides. Products of integers, since a
        # rounded quotient could fall one pixel short.
        if least_h * width >= least_w * height:
            return least_h, least_h * width // height
        return least_w * height // width, least_w

    def normalize(
        self, x_BCHW: UInt8[Tensor, "*B C H W"] | Float32[Tensor, "*B C H W"]
    ) -> Float32[Tensor, "*B C H W"]:
        """Bring values in 0-255 to float32 (x / 255 - mean) / std.

        Args:
            x_BCHW: On any device, on which the result is too.
        """
        import torch

        mean = _on_channels(self.mean, x_BCHW.device)
        std = _on_channels(self.std, x_BCHW.device)
        return x_BCHW.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)

    def array(self, image: Array) -> Array:
        """Return an image as the network takes it, as `__call__` does, without torch.

        Args:
            image: Decoded, uint8 (H', W', C).

        Returns:
            float32 (C, H, W).
        """
        mean = np.array(self.mean, dtype=np.float32)
        std = np.array(self.std, dtype=np.float32)
        scaled = self._fit(image).astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(np.moveaxis((scaled - mean) / std, 2, 0))

    def __call__(self, image: Array) -> Float32[Tensor, "C H W"]:
        """Return an image as the network takes it.

        Args:
            image: Decoded, uint8 (H', W', C).
        """
        return self.normalize_fitted(self._fit(image))

    def normalize_fitted(self, image: Array) -> Float32[Tensor, "C H W"]:
        """Return what `fit_image` returned as the network takes it.

        Args:
            image: (H, W, C), values in 0-255.
        """
        import torch

        x_HWC = torch.from_numpy(np.array(image))
        return self.normalize(x_HWC.permute(2, 0, 1).contiguous())


def _on_channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    import torch

    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def _scale(image: Array, height: int, width: int, method: Image.Resampling) -> Pixels:
    """Resize as Pillow does, antialiased, any number of channels.

    Pillow works channel by channel, so images that it has no mode for get the same
    result one plane at a time.
    """
    size = (width, height)
    if image.shape[2] == 3:
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.array(picture.resize(size, method), dtype=np.uint8)
    planes = []
    for plane in np.moveaxis(image, 2, 0):
        picture = Image.fromarray(np.ascontiguousarray(plane))
        planes.append(np.asarray(picture.resize(size, method)))
    return np.stack(planes, axis=2)
