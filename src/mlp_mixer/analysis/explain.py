"""Explain an answer: what in an image speaks for a class, and which images look alike.

Axes: B images, C channels, H x W pixels, h x w patches of side P, N windows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.image_set import ImageSet
from ..errors import UserError, unknown
from ..evaluation.accuracy import Progress, outputs
from ..images.preprocess import Preprocess
from ..models import IsotropicMlp
from ..weights import Checkpoint
from .figures import INK, PAPER
from .token_units import Array, colours, visible

Method = Literal["occlusion", "gradient"]
METHODS: tuple[Method, ...] = ("occlusion", "gradient")
Neighbour: TypeAlias = tuple[str, float, Array]
"""Class name, cosine between the centred features, and the image as uint8 (H, W, C)."""

_TITLES = {
    "occlusion": "places that count, found by covering",
    "gradient": "places that count, found by gradients",
}
UNSURE = 0.5
"""Score of the best class, below which an answer is called unsure."""
# Images at a time. Autograd keeps 0.2 GB for each image in a Mixer-L/16.
_FORWARD = 32
_BACKWARD = 8

# Pixels of the drawing.
_SIDE = 288
_MOST_SIDE = 1024  # of a photo under a map: enough for any screen
_GAP = 20
_LINE = 24
_BAR = (103, 132, 168)
_MOST_NEIGHBOURS = 5


def maps(
    model: IsotropicMlp,
    x_BCHW: Tensor,
    label: int,
    method: Method,
    progress: Progress = lambda done, total: None,
) -> NDArray[np.float32]:
    """Compute how much each place of one image speaks for a class.

    "occlusion" (Zeiler and Fergus, arXiv 1311.2901): windows of about a sixth of the
    side, moved patch by patch, are covered by the mean colour; a patch gets the mean
    fall of the log-probability under the windows over it.

    "gradient" (integrated gradients, Sundararajan et al., arXiv 1703.01365): on the
    straight way from the mean colour, averaged in squares of half a patch. All values
    sum to the class's logit minus that of the mean colour, to about 1 %.

    Args:
        model: In evaluation mode.
        x_BCHW: One image (B = 1) as the network takes it, on the model's device.
        label: The class.
        method: One of `METHODS`.
        progress: Is told how many forward passes of how many are done.

    Returns:
        A value for each pixel (H, W); below 0 the place speaks against the class.

    Raises:
        UserError: The method, the class or the shape is unknown.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if not 0 <= label < model.num_classes or len(x_BCHW) != 1:
        raise UserError(
            f"a map is of one image and one of {model.num_classes} classes, got "
            f"{len(x_BCHW)} and {label}"
        )
    compute = _occlusion if method == "occlusion" else _integrated_gradients
    # A server calls this in inference mode, whose tensors autograd refuses: the clone
    # is an ordinary one.
    with torch.inference_mode(False), torch.enable_grad():
        heat = compute(model, x_BCHW.clone(), label, progress)
    return heat.float().cpu().numpy()


def _occlusion(
    model: IsotropicMlp, x: Tensor, label: int, progress: Progress
) -> Tensor:
    P = model.config.patch_size
    mean = x.mean(dim=(2, 3), keepdim=True)
    windows_Nhw = _windows(model.config.grid, x.device)
    with torch.no_grad():
        logits = [model(x)]
        for some in torch.split(windows_Nhw, _FORWARD):
            is_covered = _enlarged(some, P).bool()[:, None]
            logits.append(model(torch.where(is_covered, mean, x)))
            progress(sum(map(len, logits)) - 1, len(windows_Nhw))
    values = torch.cat(logits).float()
    # A softmax over a single class is always 1.
    log = values.log_softmax(dim=1) if values.shape[1] > 1 else F.logsigmoid(values)
    whole, covered_N = log[:, label].tensor_split([1])
    falls_hw = torch.einsum("nhw,n->hw", windows_Nhw, whole - covered_N)
    return _enlarged(falls_hw / windows_Nhw.sum(dim=0), P)


def _windows(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return all windows of a sixth of the grid: 1 for a covered patch, (N, h, w)."""
    bands = []
    for n in grid:
        side = max(1, round(n / 6))
        # Row i of the band matrix covers the patches i to i + side - 1.
        ones = torch.ones(n - side + 1, n, device=device)
        bands.append(ones.triu().tril(side - 1))
    rows, columns = bands
    return torch.einsum("ah,bw->abhw", rows, columns).flatten(0, 1)


def _integrated_gradients(
    model: IsotropicMlp, x: Tensor, label: int, progress: Progress
) -> Tensor:
    P = model.config.patch_size
    change = x - x.mean(dim=(2, 3), keepdim=True)
    gained = (model(x) - model(x - change))[0, label].item()
    # A finer rule where the sum is wrong: the logit bends much on the way.
    for points in (32, 128):
        heat = _integrate(model, x, change, label, points, progress)
        if abs(heat.sum().item() - gained) <= 0.001 + 0.01 * abs(gained):
            break
    # Single pixels of a photo are noise; half patches show the stem's own detail.
    square = 1 if P % 2 else P // 2
    return _enlarged(F.avg_pool2d(heat.sum(dim=1), square)[0], square)


def _integrate(
    model: IsotropicMlp,
    x: Tensor,
    change: Tensor,
    label: int,
    points: int,
    progress: Progress,
) -> Tensor:
    """Integrate the gradient from `x - change` to `x` by Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    # The rule is for -1 to 1; the way still to go runs from 1 to 0.
    to_go = torch.from_numpy((1 - nodes) / 2).to(x).view(-1, 1, 1, 1)
    share = torch.from_numpy(weights / 2).to(x).view(-1, 1, 1, 1)
    heat = torch.zeros_like(x)
    for some in torch.split(torch.arange(points), _BACKWARD):
        on_the_way = (x - to_go[some] * change).requires_grad_()
        logits = model(on_the_way)[:, label]
        (gradient,) = torch.autograd.grad(logits.sum(), on_the_way)
        heat += change * (share[some] * gradient).sum(dim=0)
        progress(int(some[-1]) + 1, points)
    return heat


def _enlarged(grid: Tensor, times: int) -> Tensor:
    """Repeat each value in a square of `times` x `times`."""
    return grid.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)


def nearest(
    checkpoint: Checkpoint,
    x_BCHW: Tensor,
    images: ImageSet,
    count: int = 5,
    progress: Progress | None = None,
) -> list[Neighbour]:
    """Find the images whose centred features have the largest cosine with one image's.

    All pooled features of a network share a large mean, which makes every two images
    look alike: it is subtracted first.

    Args:
        checkpoint: Its model is in evaluation mode.
        x_BCHW: One image (B = 1) as the network takes it, on the model's device.
        images: Where to look, such as the training images.
        count: How many to return at most.
        progress: Is told how many of the images are done.

    Returns:
        The images, the nearest first; each as `seen_part` shows it.
    """
    model = checkpoint.model
    preprocess = checkpoint.preprocess

    def pooled(x: Tensor) -> Tensor:
        return model.forward_head(model.forward_features(x), pre_logits=True).float()

    with torch.inference_mode():
        features = outputs(model, pooled, images, preprocess, progress=progress)
        mean = features.mean(dim=0)
        own = F.normalize(pooled(x_BCHW)[0].cpu() - mean, dim=0)
        cosines = F.normalize(features - mean) @ own
    best = cosines.topk(min(count, len(images))).indices.tolist()
    found = []
    for index in best:
        name = images.label_text(index)
        picture = seen_part(images.image(index), preprocess)
        found.append((name, cosines[index].item(), picture))
    return found


def seen_part(image: Array, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return the part of a photo that the network sees, in the photo's own pixels.

    Args:
        image: Decoded, uint8 (H', W', C).
        preprocess: Of the network; what its crop cuts off is cut off here.

    Returns:
        uint8 (h, w, C), of at most 1,024 pixels a side; of many bands their mean. Of a
        photo of fewer pixels than the network takes: the input of the network.
    """
    height, width = image.shape[:2]
    if image.shape[2] not in (1, 3):
        image = visible(image)
        preprocess = replace(preprocess, channels=1, mean=(0.5,), std=(0.5,))
    top, left, bottom, right = preprocess.seen(height, width)
    rows = slice(math.floor(top * height), math.ceil(bottom * height))
    columns = slice(math.floor(left * width), math.ceil(right * width))
    part = image[rows, columns]
    enlarged = part.shape[0] < preprocess.image_size[0]
    if enlarged or part.shape[1] < preprocess.image_size[1]:
        return preprocess.fit(image)
    longer = max(part.shape[:2])
    if longer <= _MOST_SIDE:
        return part
    size = tuple(round(side * _MOST_SIDE / longer) for side in part.shape[:2])
    smaller = Preprocess(size, part.shape[2], resize="resize", crop_pct=1.0)
    return smaller.fit(part)


def veil(heat: Array) -> NDArray[np.uint8]:
    """Colour a map, transparent where nothing speaks for the class or against it.

    Args:
        heat: The map (H, W): blue is negative, red positive, opaque far from 0.

    Returns:
        A picture (H, W, 4): red, green, blue and opacity.
    """
    values = heat.astype(np.float64) / (np.abs(heat).max() or 1)
    # The root lifts weak places, which would be hidden by the strongest one.
    opaque = 0.85 * np.sqrt(np.abs(values))[..., None]
    alpha = (255 * opaque).round().astype(np.uint8)
    return np.concatenate([colours(values), alpha], axis=2)


def overlay(pixels: Array, heat: Array) -> NDArray[np.uint8]:
    """Lay a map over its image.

    Args:
        pixels: The image (H, W, C), 0 to 255; it is shown pale.
        heat: The map (h, w) of the same place: blue is negative, red positive, opaque
            far from 0. It is enlarged to the image's size.

    Returns:
        A picture (H, W, 3).
    """
    values = heat.astype(np.float64) / (np.abs(heat).max() or 1)
    if values.shape != pixels.shape[:2]:
        # Pillow's size is (width, height).
        size = (pixels.shape[1], pixels.shape[0])
        map_F = Image.fromarray(values.astype(np.float32))
        values = np.asarray(map_F.resize(size, Image.Resampling.BILINEAR), np.float64)
    opaque = 0.85 * np.sqrt(np.abs(values))[..., None]
    # Gray, so that no colour of the photo is taken for one of the map.
    pale = 127 + pixels.mean(axis=2, keepdims=True) / 2
    return (pale * (1 - opaque) + colours(values) * opaque).round().astype(np.uint8)


def draw(
    pixels: Array,
    heat: Mapping[Method, Array],
    name: str,
    top: Sequence[tuple[str, float]],
    near: Sequence[Neighbour],
) -> NDArray[np.uint8]:
    """Draw an explanation as one picture.

    Args:
        pixels: The part of the photo that the network sees, uint8 (h, w, C).
        heat: The maps (H, W) by method, of the network's size.
        name: The class that the maps explain.
        top: The best classes with scores in [0, 1].
        near: The nearest images, at most five.

    Returns:
        A picture (height, width, 3).
    """
    width = _GAP + (1 + len(heat)) * (_SIDE + _GAP)
    thumb = (width - _GAP) // _MOST_NEIGHBOURS - _GAP
    remark = unsure(top)
    bars = _GAP + _SIDE + (5 if remark else 4) * _LINE
    neighbours = bars + len(top) * _LINE + _GAP
    height = neighbours
    if near:
        height += thumb + 2 * _LINE + _GAP
    sheet = _Sheet(width, height)
    size = " x ".join(str(side) for side in next(iter(heat.values())).shape)
    sheet.write(_GAP, _GAP, f"seen by the network, in {size} pixels", _SIDE)
    sheet.paste(_GAP, _GAP + _LINE, pixels, _SIDE)
    sheet.write(_GAP, _GAP + _LINE + _SIDE + 6, f"red places say: {name}", _SIDE)
    for column, (method, values) in enumerate(heat.items(), start=1):
        left = _GAP + column * (_SIDE + _GAP)
        sheet.write(left, _GAP, _TITLES[method], _SIDE)
        sheet.paste(left, _GAP + _LINE, overlay(pixels, values), _SIDE)
        _draw_legend(sheet, left, _GAP + _LINE + _SIDE, values)
    if remark:
        sheet.write(_GAP, bars - _LINE, remark, width - 2 * _GAP)
    for row, (label, score) in enumerate(top):
        _draw_bar(sheet, bars + row * _LINE, label, score)
    if near:
        heading = "training images that look most alike to the network (1 is the same)"
        sheet.write(_GAP, neighbours, heading, width - _GAP)
    for column, (label, cosine, picture) in enumerate(near):
        left = _GAP + column * (thumb + _GAP)
        below = neighbours + _LINE + thumb + 4
        sheet.paste(left, neighbours + _LINE, picture, thumb)
        sheet.write(left, below, f"{cosine:.2f}  {label}", thumb)
    return np.asarray(sheet.image)


def unsure(top: Sequence[tuple[str, float]]) -> str:
    """Return a sentence on an answer that is hardly one; "" for a sure one.

    Args:
        top: The best classes with scores in [0, 1], the best first.
    """
    if not top or top[0][1] >= UNSURE:
        return ""
    return (
        f"The network is unsure ({100 * top[0][1]:.0f} %): a map of a weak answer "
        "explains little."
    )


class _Sheet:
    """A picture to write on."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(size=15)

    def write(self, x: int, y: int, text: str, room: int, anchor: str = "la") -> None:
        """Write one line, cut short with "..." where it is wider than `room` pixels."""
        text = " ".join(text.split())
        while self.pen.textlength(text, self.font) > room:
            text = text.removesuffix("...")[:-1] + "..."
        self.pen.text((x, y), text, INK, self.font, anchor)

    def paste(self, x: int, y: int, picture: Array, side: int) -> None:
        """Paste a picture (H, W, C), scaled so that its longer side has `side` pixels."""
        height, width, channels = picture.shape
        if channels == 3:
            rgb = picture
        else:
            # One channel is grey; two or four have no colours, and the mean is shown.
            gray = picture.mean(axis=2, keepdims=True).round().astype(np.uint8)
            rgb = gray.repeat(3, axis=2)
        longer = max(height, width)
        size = (
            max(1, round(side * width / longer)),
            max(1, round(side * height / longer)),
        )
        # The pixels of a small picture stay squares.
        how = Image.Resampling.NEAREST if longer < 64 else Image.Resampling.BICUBIC
        self.image.paste(Image.fromarray(rgb).resize(size, how), (x, y))


def _draw_legend(sheet: _Sheet, left: int, bottom: int, values: Array) -> None:
    """Draw the scale of a map below it."""
    scale = np.tile(np.linspace(-1, 1, _SIDE), (12, 1))
    sheet.paste(left, bottom + 8, overlay(np.full((12, _SIDE, 1), 255), scale), _SIDE)
    largest = float(np.abs(values).max())
    y = bottom + 22
    sheet.write(left, y, f"against ({-largest:.2g})", _SIDE // 2)
    sheet.write(left + _SIDE, y, f"for it (+{largest:.2g})", _SIDE // 2, "ra")


def _draw_bar(sheet: _Sheet, y: int, label: str, score: float) -> None:
    """Draw a class, its score, and a bar as long as the score."""
    left = 2 * _GAP + _SIDE
    sheet.write(_GAP, y, label, _SIDE - 80)
    sheet.write(_GAP + _SIDE, y, f"{100 * score:.2f} %", 80, "ra")
    sheet.pen.rectangle((left, y + 3, left + round(score * _SIDE), y + 15), _BAR)
