"""Two pretexts for a Mixer to learn from images without labels: covered patches, and
two views of one image.

The tasks are those of `mlp-mixer pretrain` (mlp_mixer.training.extras.pretext). Here
they get images (B, C, H, W) in [0, 1] that lie on the device, and the views are drawn
there too.
"""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlp_mixer import MlpMixer
from mlp_mixer.training.config import PretextChoice
from mlp_mixer.training.extras import pretext


class Pretext(nn.Module, ABC):
    views = 1  # of each image in a step
    rate = 6e-3  # the largest of the schedule
    choice: PretextChoice

    def __init__(
        self, model: MlpMixer, moments: tuple[Tensor, Tensor], mirrored: bool
    ) -> None:
        super().__init__()
        task = pretext.build_pretext(self.choice, model)
        assert task is not None
        self.task = task
        self.moments = moments
        self.mirrored = mirrored

    @abstractmethod
    def seen(self, images: Tensor) -> Tensor:
        """What a step shows of the images (B, C, H, W): each `views` times, changed."""

    def forward(self, images: Tensor) -> Tensor:
        mean, std = self.moments
        seen = self.seen(images)
        shown = (seen - mean.to(seen)) / std.to(seen)
        draws = torch.rand(len(shown), self.task.covering(), device=shown.device)
        loss, _ = self.task(shown, draws, None)
        assert isinstance(loss, Tensor)
        return loss


class Covered(Pretext):
    """A mask token stands for three patches of four."""

    choice = PretextChoice(name="covered", mask_ratio=0.75)

    def seen(self, images: Tensor) -> Tensor:
        return views(images, self.mirrored, least=0.4, colours=False)


class TwoViews(Pretext):
    """Of all views in the batch, the other one of the same image is sought."""

    views = 2
    choice = PretextChoice(name="views", temperature=0.1)

    def seen(self, images: Tensor) -> Tensor:
        return torch.cat([views(images, self.mirrored) for _ in range(self.views)])


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
