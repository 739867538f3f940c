"""Images of one size in memory, and parts of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlp_mixer import ArraySet, UserError, open_dataset


class Data(NamedTuple):
    """Images uint8 (N, C, H, W) and labels int64 (N,), for training and for the one
    look at the end.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    @property
    def mirrored(self) -> bool:
        """Whether a mirrored image is still one of its class: not of digits."""
        return self.images.shape[-1] >= 28

    def part(self, fraction: float, seed: int = 0) -> Data:
        """That fraction of each class of the training images, at least one; the test
        images stay.
        """
        draw = torch.Generator().manual_seed(seed)
        chosen = []
        for label in range(len(self.classes)):
            members = (self.labels == label).nonzero()[:, 0]
            count = max(1, round(len(members) * fraction))
            chosen.append(members[torch.randperm(len(members), generator=draw)[:count]])
        kept = torch.cat(chosen).sort().values
        return self._replace(images=self.images[kept], labels=self.labels[kept])

    def split(self, fraction: float = 0.1, seed: int = 0) -> Data:
        """The training images alone, so many of each class held out in the place of the
        test: to choose by.
        """
        order = torch.randperm(
            len(self.labels), generator=torch.Generator().manual_seed(seed)
        )
        held, kept = order.tensor_split([round(len(order) * fraction)])
        return Data(
            *(
                part[rows]
                for rows in (kept, held)
                for part in (self.images, self.labels)
            ),
            self.classes,
        )


def load_data(spec: str) -> Data:
    """A source whose images are of one size, in memory."""
    source = open_dataset(spec)
    parts: list[Tensor] = []
    for images in (source.train, source.test):
        if not isinstance(images, ArraySet):
            raise UserError(
                f"{spec}: the experiments need images of one size in memory, such as cifar10:PATH"
            )
        stacked = np.stack([images.image(index) for index in range(len(images))])
        parts += [
            torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(images.labels),
        ]
    return Data(parts[0], parts[1], parts[2], parts[3], source.train.classes)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    sample = images[:: max(1, len(images) // 2000)].float() / 255
    return sample.mean(dim=(0, 2, 3))[:, None, None], sample.std(dim=(0, 2, 3))[
        :, None, None
    ]


def floats(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (images.float() / 255 - mean.to(images.device)) / std.to(images.device)
