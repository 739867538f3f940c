"""A patch embedding that begins with the directions in which patches differ, each with
variance one.

As the first layer of airbench (Jordan, arXiv 2404.00498, after Page's "How to train
your ResNet"): the eigenvectors of the patches' covariance and their negatives, for
behind a nonlinearity both are of use.
"""

from __future__ import annotations

import numpy as np
import torch

from ...data.image_set import ImageSet
from ...images.preprocess import Preprocess
from ...models.layers import PatchEmbed

_IMAGES, _LEAST = (
    2000,
    5e-4,
)  # that are looked at; variance that is added, so that what hardly occurs stays small


@torch.no_grad()
def whiten(
    stem: PatchEmbed, images: ImageSet, preprocess: Preprocess, seed: int
) -> None:
    """Overwrite the first 2 P^2 in_channels rows of the stem, or as many as it has; the
    others stay as they are.
    """
    drawn = np.random.default_rng(seed).permutation(len(images))[:_IMAGES]
    x_BCHW = torch.stack(
        [preprocess(images.image(int(index))) for index in np.sort(drawn)]
    ).double()
    C = stem.proj.out_channels
    P = stem.proj.kernel_size[0]
    patches_ND = (
        torch.nn.functional.unfold(x_BCHW, P, stride=P).transpose(1, 2).flatten(0, 1)
    )
    values, vectors_DD = torch.linalg.eigh(torch.cov(patches_ND.T))
    rows_DD = (vectors_DD / (values + _LEAST).sqrt()).T.flip(
        0
    )  # the direction of most variance first
    signs = rows_DD.gather(
        1, rows_DD.abs().argmax(dim=1, keepdim=True)
    ).sign()  # else the library's choice
    rows = torch.cat([rows_DD * signs, -rows_DD * signs])[:C]
    stem.proj.weight[: len(rows)] = rows.reshape(
        len(rows), *stem.proj.weight.shape[1:]
    ).to(stem.proj.weight)
    if stem.proj.bias is not None:
        stem.proj.bias[: len(rows)] = -(rows @ patches_ND.mean(dim=0)).to(
            stem.proj.bias
        )
