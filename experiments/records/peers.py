"""Three Mixers of others, each with the training that its own source states; README.md
says where each number is from.

Every entry takes the training images uint8 (N, 3, 32, 32), their labels and the number
of classes.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import timm
import torch
from clock import Batches, Entry
from PIL import Image
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from mlp_mixer.compat.lavish619 import MLP_Mixer


def shuffled(
    count: int, batch: int = 128, *, drop_last: bool = False
) -> Iterator[Tensor]:
    """One epoch: all indices once, in a random order, in batches."""
    most = count // batch * batch if drop_last and count > batch else count
    yield from torch.randperm(count)[:most].split(batch)


def warm_cosine(share: float) -> float:
    """Linear over a twentieth, then a cosine to zero."""
    return min(share / 0.05 + 1e-3, 0.5 + 0.5 * math.cos(math.pi * min(share, 1)))


def lavish619(images: Tensor, labels: Tensor, classes: int) -> Entry:
    """Its README's network, but for the size of the images; Adam as torch has it, for
    it states nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its default widths are not the paper's
        model = MLP_Mixer((32, 32, 3), 4, classes, num_mixers=8, num_features=512)

    def batches() -> Batches:
        while True:
            for rows in shuffled(len(labels)):
                yield images[rows].float() / 127.5 - 1, labels[rows]

    return Entry(model, torch.optim.Adam(model.parameters()), batches())


def timm_mixer(
    images: Tensor, labels: Tensor, classes: int, *, fitted: bool = False
) -> Entry:
    """timm's class in the size of our nano4, trained as train.py does unless told
    otherwise.

    fitted: the cosine ends with the time, after a short warm-up, instead of after 300
        epochs.
    """
    model = timm.models.MlpMixer(
        num_classes=classes, img_size=32, patch_size=4, num_blocks=8, embed_dim=128
    )
    optimizer = create_optimizer_v2(
        model, "sgd", lr=0.1 * 128 / 256, momentum=0.9, weight_decay=2e-5
    )
    transform = create_transform(
        32, is_training=True, interpolation="random", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    pixels = images.permute(0, 2, 3, 1).numpy()
    schedule = None
    if not fitted:
        schedule, _ = create_scheduler_v2(
            optimizer, "cosine", num_epochs=300, warmup_epochs=5, warmup_lr=1e-5
        )

    def batches() -> Batches:
        for epoch in itertools.count():
            if schedule:
                schedule.step(epoch)
            for rows in shuffled(len(labels), drop_last=True):
                yield (
                    torch.stack(
                        [
                            transform(Image.fromarray(pixels[row]))
                            for row in rows.tolist()
                        ]
                    ),
                    labels[rows],
                )

    return Entry(
        model,
        optimizer,
        batches(),
        smoothing=0.1,
        factor=warm_cosine if fitted else None,
    )


class KerasMixer(nn.Module):
    """The example's network with its augmentation, which there too is a part of it: 32
    -> 64 pixels, flips, zoom.
    """

    def __init__(
        self,
        classes: int,
        S: int = 64,
        C: int = 256,
        blocks: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()

        def mlp(width: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(width, S), nn.GELU(), nn.Linear(S, width), nn.Dropout(dropout)
            )

        self.stem = nn.Conv2d(3, C, 8, 8)
        self.norms = nn.ModuleList(
            nn.LayerNorm(C, eps=1e-6) for _ in range(blocks)
        )  # one for both halves of a block
        self.tokens = nn.ModuleList(mlp(S) for _ in range(blocks))
        self.channels = nn.ModuleList(mlp(C) for _ in range(blocks))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(C, classes))
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                weight = layer.weight.data.flatten(
                    1
                )  # of the stem: a dense layer on flat patches there
                layer.weight.data = nn.init.xavier_uniform_(weight).view_as(
                    layer.weight
                )
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        images = nn.functional.interpolate(images, size=64, mode="bilinear")
        x = (
            self.stem(self.augmented(images) if self.training else images)
            .flatten(2)
            .transpose(1, 2)
        )
        for norm, tokens, channels in zip(
            self.norms, self.tokens, self.channels, strict=True
        ):
            x = x + tokens(norm(x).transpose(1, 2)).transpose(1, 2)
            x = x + channels(norm(x))
        return self.head(x.mean(1))

    @staticmethod
    def augmented(images: Tensor) -> Tensor:
        """RandomFlip("horizontal") and RandomZoom(0.2, 0.2): each side by its own
        factor, mirrored at the border.
        """
        scales = 1 + 0.4 * (torch.rand(len(images), 2) - 0.5)  # of columns, of rows
        scales[:, 0] *= torch.where(torch.rand(len(images)) < 0.5, -1.0, 1.0)
        grid = nn.functional.affine_grid(
            torch.cat([scales.diag_embed(), torch.zeros(len(images), 2, 1)], 2),
            list(images.shape),
            align_corners=False,
        )
        return nn.functional.grid_sample(
            images, grid, padding_mode="reflection", align_corners=False
        )


def keras_example(images: Tensor, labels: Tensor, classes: int) -> Entry:
    """Its AdamW, and its callbacks, which look at the last tenth of the training images
    after each epoch.
    """
    model = KerasMixer(classes)
    kept = len(labels) - len(labels) // 10
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.005, weight_decay=1e-4, eps=1e-7
    )
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=4, threshold_mode="abs"
    )
    values = images.float() / 255
    mean = values[:kept].mean((0, 2, 3))
    std = values[:kept].std((0, 2, 3))
    values = (values - mean[:, None, None]) / std[:, None, None]

    @torch.inference_mode()
    def held_out_loss() -> float:
        logits = torch.cat([model.eval()(part) for part in values[kept:].split(500)])
        model.train()
        return nn.functional.cross_entropy(logits, labels[kept:]).item()

    def batches() -> Batches:
        best = math.inf
        weights = model.state_dict()
        since = 0
        try:
            while since < 10:
                for rows in shuffled(kept):
                    yield values[rows], labels[rows]
                loss = held_out_loss()
                plateau.step(loss)
                since += 1
                if loss < best:
                    best = loss
                    weights = copy.deepcopy(model.state_dict())
                    since = 0
        finally:
            model.load_state_dict(weights)

    return Entry(model, optimizer, batches(), tuple(mean.tolist()), tuple(std.tolist()))


PEERS: dict[str, Callable[[Tensor, Tensor, int], Entry]] = {
    "lavish619": lavish619,
    "timm": timm_mixer,
    "timm, fitted": partial(timm_mixer, fitted=True),
    "Keras example": keras_example,
}
