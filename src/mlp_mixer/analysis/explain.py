"""Why this answer? What in an image speaks for a class, which training images look
alike, and a picture of both.

Axes: B images, C channels, H x W pixels, h x w patches of side P, N windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.image_set import ImageSet
from ..errors import UserError, unknown
from ..evaluation.accuracy import outputs
from ..models import MlpMixer
from ..weights import Checkpoint
from .figures import INK, PAPER
from .token_units import Array, colours

Method = Literal["occlusion", "gradient"]
METHODS: tuple[Method, ...] = ("occlusion", "gradient")
Neighbour: TypeAlias = tuple[str, float, Array]
"""Class name, cosine between the pooled features, and the image as uint8 (H, W, C)."""

_TITLES = {
    "occlusion": "log-probability lost where covered",
    "gradient": "logit gained a pixel (integrated gradients)",
}
_FORWARD, _BACKWARD = (
    32,
    8,
)  # images at a time: of one in a Mixer-L/16 autograd keeps 0.2 GB
_SIDE = 288
_GAP = 20
_LINE = 24
_BAR = (103, 132, 168)


def maps(
    model: MlpMixer, x_BCHW: Tensor, label: int, method: Method
) -> NDArray[np.float32]:
    """How much each place of one image (B = 1) speaks for the class `label`, as (H, W);
    below 0 it speaks against it.

    "occlusion" (Zeiler and Fergus, arXiv 1311.2901): windows of about a sixth of the
    side, moved patch by patch, are covered by the mean colour; a patch gets the mean
    fall of the log-probability under the windows over it. "gradient" (integrated
    gradients, Sundararajan et al., arXiv 1703.01365): on the straight way from the mean
    colour, averaged in squares of half a patch; all sum to the class's logit minus that
    of the mean colour, to about 1 %. The model is in evaluation mode, the image on its
    device. `UserError` for an unknown method, class or shape.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if not 0 <= label < model.num_classes or len(x_BCHW) != 1:
        raise UserError(
            f"a map is of one image and one of {model.num_classes} classes, got {len(x_BCHW)} and {label}"
        )
    with torch.inference_mode(False), torch.enable_grad():
        heat = (_occlusion if method == "occlusion" else _integrated_gradients)(
            model, x_BCHW.clone(), label
        )
    return heat.float().cpu().numpy()


def _occlusion(model: MlpMixer, x: Tensor, label: int) -> Tensor:
    grid = model.config.grid
    P = model.config.patch_size
    mean = x.mean(dim=(2, 3), keepdim=True)
    sides = ((n, max(1, round(n / 6))) for n in grid)
    rows, columns = (
        torch.ones(n - side + 1, n, device=x.device).triu().tril(side - 1)
        for n, side in sides
    )
    windows_Nhw = torch.einsum("ah,bw->abhw", rows, columns).flatten(0, 1)
    parts = torch.split(windows_Nhw, _FORWARD)
    with torch.no_grad():
        logits = [
            model(x),
            *(
                model(torch.where(_enlarged(part, P).bool()[:, None], mean, x))
                for part in parts
            ),
        ]
    whole, covered_N = (
        torch.cat(logits).float().log_softmax(dim=1)[:, label].tensor_split([1])
    )
    return _enlarged(
        torch.einsum("nhw,n->hw", windows_Nhw, whole - covered_N)
        / windows_Nhw.sum(dim=0),
        P,
    )


def _integrated_gradients(model: MlpMixer, x: Tensor, label: int) -> Tensor:
    P = model.config.patch_size
    change = x - x.mean(dim=(2, 3), keepdim=True)
    gained = (model(x) - model(x - change))[0, label].item()
    for rule in map(
        np.polynomial.legendre.leggauss, (32, 128)
    ):  # finer where the sum is wrong
        to_go, weights = (
            torch.from_numpy(v / 2).to(x).view(-1, 1, 1, 1)
            for v in (1 - rule[0], rule[1])
        )
        heat = torch.zeros_like(x)
        for some in torch.split(torch.arange(len(to_go)), _BACKWARD):
            points = (x - to_go[some] * change).requires_grad_()
            heat += change * (
                weights[some]
                * torch.autograd.grad(model(points)[:, label].sum(), points)[0]
            ).sum(dim=0)
        if abs(heat.sum().item() - gained) <= 0.001 + 0.01 * abs(gained):
            break
    square = 1 if P % 2 else P // 2  # single pixels of a photo are noise
    return _enlarged(F.avg_pool2d(heat.sum(dim=1), square)[0], square)


def _enlarged(grid: Tensor, times: int) -> Tensor:
    return grid.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)


def nearest(
    checkpoint: Checkpoint, x_BCHW: Tensor, images: ImageSet, count: int = 5
) -> list[Neighbour]:
    """Those of `images` whose pooled features have the largest cosine with those of one
    image, the nearest first.
    """
    model = checkpoint.model
    preprocess = checkpoint.preprocess

    def pooled(x: Tensor) -> Tensor:
        return F.normalize(
            model.forward_head(model.forward_features(x), pre_logits=True).float()
        )

    with torch.inference_mode():
        cosines = outputs(model, pooled, images, preprocess) @ pooled(x_BCHW)[0].cpu()
    best = cosines.topk(min(count, len(images))).indices.tolist()
    return [
        (
            images.classes[images.labels[i]],
            cosines[i].item(),
            preprocess.fit(images.image(i)),
        )
        for i in best
    ]


def draw(
    pixels: Array,
    heat: Mapping[Method, Array],
    name: str,
    top: Sequence[tuple[str, float]],
    near: Sequence[Neighbour],
) -> NDArray[np.uint8]:
    """One picture (H, W, 3) of an image as the network sees it, uint8 (H, W, C), maps
    (H, W) of the class `name` on it,
    the best classes with scores in [0, 1], and the nearest images.
    """
    width = _GAP + (1 + len(heat)) * (_SIDE + _GAP)
    bars = _GAP + _SIDE + 4 * _LINE
    thumb = (width - _GAP) // 5 - _GAP
    rows = bars + len(top) * _LINE + _GAP
    sheet = Image.new(
        "RGB", (width, rows + bool(near) * (thumb + 2 * _LINE + _GAP)), PAPER
    )
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)

    def write(x: int, y: int, text: str, room: int, anchor: str = "la") -> None:
        text = " ".join(text.split())
        while pen.textlength(text, font) > room:
            text = text.removesuffix("...")[:-1] + "..."
        pen.text((x, y), text, INK, font, anchor)

    def paste(x: int, y: int, picture: Array, side: int) -> None:
        gray = (
            picture
            if picture.shape[2] == 3
            else picture.mean(axis=2, keepdims=True).round().astype(np.uint8)
        )
        high, wide = (
            max(1, round(side * n / max(picture.shape[:2]))) for n in picture.shape[:2]
        )
        how = (
            Image.Resampling.NEAREST
            if max(picture.shape) < 64
            else Image.Resampling.BICUBIC
        )
        sheet.paste(
            Image.fromarray(gray.repeat(3 // gray.shape[2], axis=2)).resize(
                (wide, high), how
            ),
            (x, y),
        )

    write(_GAP, _GAP, "as the network sees it", _SIDE)
    paste(_GAP, _GAP + _LINE, pixels, _SIDE)
    write(_GAP, _GAP + _LINE + _SIDE + 6, f"maps of: {name}", _SIDE)
    for column, (method, values) in enumerate(heat.items(), start=1):
        x = _GAP + column * (_SIDE + _GAP)
        y = _GAP + _LINE
        largest = float(np.abs(values).max())
        write(x, _GAP, _TITLES[method], _SIDE)
        paste(x, y, laid_over(pixels, values), _SIDE)
        legend = laid_over(
            np.full((12, _SIDE, 1), 255), np.tile(np.linspace(-1, 1, _SIDE), (12, 1))
        )
        paste(x, y + _SIDE + 8, legend, _SIDE)
        for place, text, anchor in (
            (0, f"{-largest:.2g}", "la"),
            (1, "0", "ma"),
            (2, f"+{largest:.2g}", "ra"),
        ):
            write(x + place * _SIDE // 2, y + _SIDE + 22, text, _SIDE, anchor)
    for row, (each, score) in enumerate(top):
        x = 2 * _GAP + _SIDE
        y = bars + row * _LINE
        write(_GAP, y, each, _SIDE - 80)
        write(_GAP + _SIDE, y, f"{100 * score:.2f} %", 80, "ra")
        pen.rectangle((x, y + 3, x + round(score * _SIDE), y + 15), _BAR)
    for column, (each, cosine, picture) in enumerate(near):
        x = _GAP + column * (thumb + _GAP)
        write(
            x,
            rows,
            "nearest training images (cosine of pooled features)" * (not column),
            width - _GAP,
        )
        paste(x, rows + _LINE, picture, thumb)
        write(x, rows + _LINE + thumb + 4, f"{cosine:.3f}  {each}", thumb)
    return np.asarray(sheet)


def laid_over(pixels: Array, heat: Array) -> NDArray[np.uint8]:
    """An image (H, W, C), pale, under its map (H, W): blue is negative, red positive,
    opaque far from 0; (H, W, 3).
    """
    values = heat.astype(np.float64) / (np.abs(heat).max() or 1)
    opaque = 0.85 * np.sqrt(np.abs(values))[..., None]
    pale = 127 + pixels.mean(axis=2, keepdims=True) / 2
    return (pale * (1 - opaque) + colours(values) * opaque).round().astype(np.uint8)
