"""Two pretexts for a Mixer to learn from images without labels: covered patches, and
two views of one image.

A pretext is a module around the Mixer, with what it needs besides; called with images
(B, C, H, W) in [0, 1] it returns its loss. Axes: S patches of the grid, P pixels of a
patch times C.
"""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlp_mixer import MlpMixer


class Pretext(nn.Module, ABC):
    views = 1  # of each image in a step
    rate = 6e-3  # the largest of the schedule

    def __init__(
        self, model: MlpMixer, moments: tuple[Tensor, Tensor], mirrored: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.moments = moments
        self.mirrored = mirrored

    def normalised(self, images: Tensor) -> Tensor:
        """What the network is shown, as in `common.fit`."""
        mean, std = self.moments
        return (images - mean.to(images)) / std.to(images)

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...


class Covered(Pretext):
    """SimMIM (Xie et al., arXiv 2111.09886): a mask token stands for three patches of
    four, a linear layer guesses.

    The covered tokens stay in their places, as the token-mixing layers take a fixed
    number: the short sequences of a masked autoencoder (He et al., arXiv 2111.06377)
    are none for a Mixer. Mean absolute error of the covered pixels, each patch by its
    own mean and deviation.
    """

    covered = 0.75

    def __init__(
        self, model: MlpMixer, moments: tuple[Tensor, Tensor], mirrored: bool
    ) -> None:
        super().__init__(model, moments, mirrored)
        self.token = nn.Parameter(torch.zeros(model.num_features))
        self.guess = nn.Linear(
            model.num_features, model.config.patch_size**2 * model.config.in_channels
        )

    def forward(self, images: Tensor) -> Tensor:
        images = self.normalised(views(images, self.mirrored, least=0.4, colours=False))
        side = self.model.config.patch_size
        stem = self.model.stem(images)
        mask_BS = torch.rand(stem.shape[:2], device=images.device).argsort(
            dim=1
        ) < round(self.covered * stem.shape[1])
        x_BSC = torch.where(mask_BS[..., None], self.token.to(stem.dtype), stem)
        for block in self.model.blocks:
            x_BSC = block(x_BSC)
        pixels_BSP = F.unfold(images, side, stride=side).transpose(1, 2)
        mean = pixels_BSP.mean(dim=2, keepdim=True)
        std = pixels_BSP.std(dim=2, keepdim=True)
        target = (pixels_BSP - mean) / (std + 0.1)
        return F.l1_loss(
            self.guess(self.model.norm(x_BSC))[mask_BS].float(), target[mask_BS]
        )


class TwoViews(Pretext):
    """SimCLR (Chen et al., arXiv 2002.05709): of all views in the batch, find the other
    one of the same image.
    """

    views = 2
    temperature = 0.1

    def __init__(
        self, model: MlpMixer, moments: tuple[Tensor, Tensor], mirrored: bool
    ) -> None:
        super().__init__(model, moments, mirrored)
        C = model.num_features
        self.project = nn.Sequential(
            nn.Linear(C, 4 * C), nn.BatchNorm1d(4 * C), nn.ReLU(), nn.Linear(4 * C, 128)
        )

    def forward(self, images: Tensor) -> Tensor:
        both = torch.cat([views(images, self.mirrored) for _ in range(self.views)])
        pooled = self.model.forward_head(
            self.model.forward_features(self.normalised(both)), pre_logits=True
        )
        return contrast(self.project(pooled).float(), self.temperature)


PRETEXTS: dict[str, type[Pretext]] = {"covered": Covered, "views": TwoViews}


def pretrain(
    task: Pretext,
    images: Tensor,
    passes: int,
    *,
    seed: int,
    device: str,
    batch: int = 256,
) -> dict[str, Any]:
    """Train in place with AdamW, a warm-up of a tenth and a cosine, on uint8 images (N,
    C, H, W).

    passes: images through the network in all, and in one step `batch` of them; each
        view counts.
    Returns the last twentieth's mean loss, and seconds (wall and processor).
    """
    torch.manual_seed(seed)
    task.to(device).train()
    images = images.to(device)
    steps = max(2, passes // batch)
    losses = []
    optimizer = torch.optim.AdamW(task.parameters(), weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, task.rate, steps, pct_start=0.1, cycle_momentum=False
    )
    wall = time.perf_counter()
    cpu = time.process_time()
    for _ in range(steps):
        rows = torch.randint(len(images), (batch // task.views,), device=device)
        loss = task(images[rows].float() / 255)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    seconds = {
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
    }
    return {
        "loss": round(statistics.mean(losses[-max(1, steps // 20) :]), 4),
        **seconds,
        "steps": steps,
    }


def contrast(z: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of picking row (i + B) mod 2B of (2B, D) for row i by cosine
    among all rows but itself.
    """
    z, count = F.normalize(z), len(z)
    with torch.autocast(z.device.type, enabled=False):
        scores = z @ z.T / temperature
    scores.fill_diagonal_(-math.inf)
    return F.cross_entropy(
        scores, (torch.arange(count, device=z.device) + count // 2) % count
    )


def views(
    images: Tensor, mirrored: bool, *, least: float = 0.2, colours: bool = True
) -> Tensor:
    """One random view of each square image (B, C, H, H) in [0, 1]: a crop of `least` to
    1 of its area.

    Half are mirrored, if `mirrored`. With `colours`, four of five get factors of 0.6 to
    1.4 of brightness, contrast and saturation, in this order; then one of five loses
    its colours.
    """
    u = torch.rand(10, len(images), device=images.device)
    area = least + (1 - least) * u[0]
    ratio = (4 / 3) ** (2 * u[1] - 1)
    sides = torch.stack([area * ratio, area / ratio]).sqrt().clamp(max=1)
    middle = (1 - sides) * (2 * u[2:4] - 1)
    sides[0] = torch.where((u[4] < 0.5) & mirrored, -sides[0], sides[0])
    at = (torch.arange(images.shape[3], device=images.device) + 0.5) * 2 / images.shape[
        3
    ] - 1
    x, y = (
        middle[..., None] + sides[..., None] * at
    )  # by hand: autocast would round the product in `affine_grid`
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=3)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if not colours:
        return images
    light, contrasted, saturated = torch.where(u[5] < 0.8, 0.6 + 0.8 * u[6:9], 1.0)[
        ..., None, None, None
    ]
    images = images * light
    images = images.mean(dim=(1, 2, 3), keepdim=True).lerp(images, contrasted)
    kept = torch.where(u[9, :, None, None, None] < 0.2, 0.0, saturated)
    return images.mean(dim=1, keepdim=True).lerp(images, kept).clamp(0, 1)
