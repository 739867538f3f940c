"""A patch embedding that begins with the directions in which patches differ.

Each direction is scaled to variance one, as in the first layer of airbench (Jordan,
arXiv 2404.00498, after Page's "How to train your ResNet"): the eigenvectors of the
patches' covariance, and their negatives, for behind a nonlinearity both are of use.

Axes: N patches of D = in_channels P^2 numbers, C features.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ...data.image_set import ImageSet
from ...images.preprocess import Preprocess
from ...models.layers import PatchEmbed
from ...randomness import generator

# Images that are looked at.
_IMAGES = 2000
# Variance that is added: directions that hardly occur would be scaled up to noise.
_LEAST = 5e-4


@torch.no_grad()
def whiten(
    stem: PatchEmbed, images: ImageSet, preprocess: Preprocess, seed: int
) -> None:
    """Overwrite the first 2 D features of a stem, or as many as it has.

    Args:
        stem: The patch embedding; its other features stay as they are.
        images: The training set.
        preprocess: How an image becomes the network's input.
        seed: Chooses the images that are looked at.
    """
    drawn = generator(seed).permutation(len(images))[:_IMAGES]
    pixels = [preprocess(images.image(int(index))) for index in np.sort(drawn)]
    x_BCHW = torch.stack(pixels).double()

    C = stem.proj.out_channels
    P = stem.proj.kernel_size[0]
    patches_BDS = F.unfold(x_BCHW, P, stride=P)
    patches_ND = patches_BDS.transpose(1, 2).flatten(0, 1)

    # Of a patch that is one number the covariance has no axes.
    D = patches_ND.shape[1]
    covariance_DD = torch.cov(patches_ND.T).reshape(D, D)
    values, vectors_DD = torch.linalg.eigh(covariance_DD)
    scaled_DD = vectors_DD / (values + _LEAST).sqrt()
    # Eigenvectors are columns of rising variance; the one of most variance goes first.
    rows_DD = scaled_DD.T.flip(0)

    # An eigenvector is as good as its negative, and libraries differ in which they
    # give: here the largest component is positive.
    largest = rows_DD.abs().argmax(dim=1, keepdim=True)
    rows_DD = rows_DD * rows_DD.gather(1, largest).sign()
    rows = torch.cat([rows_DD, -rows_DD])[:C]

    weight = stem.proj.weight
    kernels = rows.reshape(len(rows), *weight.shape[1:])
    weight[: len(rows)] = kernels.to(weight)
    # The bias takes the mean patch to zero.
    bias = stem.proj.bias
    if bias is not None:
        bias[: len(rows)] = -(rows @ patches_ND.mean(dim=0)).to(bias)
