"""Pretexts: tasks that need no labels, so that a network learns from images alone.

A pretext is a module around the network, with what it learns besides: a state of a run
holds both, the checkpoint only the network.

Axes: B images, S patches of the grid, C features of a token, L blocks, D numbers of a
projection, P pixels of a patch times its channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...distributed import gathered_rows
from ...errors import UserError
from ...models import IsotropicMlp
from ...models.token_mixing import TokenMixingConfig
from ..config import PretextChoice, TrainConfig

# Two views of two images are the least among which one can be found.
_LEAST_VIEWS = 4


class Pretext(nn.Module, ABC):
    """A network and a task for it.

    Attributes:
        model: The network, without a classifier.
        own: What the task learns besides.
        right_name: What the journal calls the share of right answers; None if the task
            knows no right and wrong.
    """

    right_name: str | None = None

    def __init__(self, model: IsotropicMlp, own: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.own = own

    def covering(self) -> int:
        """Return how many random numbers each image needs beside the augmentation's."""
        return 0

    @abstractmethod
    def forward(
        self, images: Tensor, draws_BS: Tensor, draws_BL2: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss in fp32, and the number of right answers.

        Args:
            images: (B, in_channels, H, W), augmented and normalised: this process's
                share of the batch.
            draws_BS: `covering()` numbers in [0, 1) of each image.
            draws_BL2: Numbers for stochastic depth.
        """

    def example(self) -> tuple[Tensor, Tensor, None]:
        """Return the smallest arguments of `forward`, on the network's device."""
        config = self.model.config
        device = self.model.stem.proj.weight.device
        images = torch.zeros(2, config.in_channels, *config.image_size, device=device)
        return images, torch.zeros(2, self.covering(), device=device), None


class Views(Pretext):
    """SimCLR (Chen et al., arXiv 2002.05709): find the other view of the same image.

    The batch of all processes holds each image twice, the second views behind all first
    ones (`data.repeats=2`). Every process compares all of them: what is learned does
    not depend on the number of processes.
    """

    right_name = "found"

    def __init__(self, model: IsotropicMlp, choice: PretextChoice) -> None:
        C = model.num_features
        # No running moments: nothing is ever projected after the training.
        projection = nn.Sequential(
            nn.Linear(C, 4 * C),
            nn.BatchNorm1d(4 * C, track_running_stats=False),
            nn.ReLU(),
            nn.Linear(4 * C, choice.projection_dim),
        )
        super().__init__(model, projection)
        self.temperature = choice.temperature

    def forward(
        self, images: Tensor, draws_BS: Tensor, draws_BL2: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return loss and right answers of finding views; see `Pretext.forward`."""
        pooled_BC = self.model(images, draws_BL2)
        # Gathered before the projection, whose norm is over the batch.
        z_BD = self.own(gathered_rows(pooled_BC.float()))
        loss, share = contrast(z_BD.float(), self.temperature)
        return loss, share * len(images)


def contrast(z_BD: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of finding row (i + B/2) mod B for row i.

    It is sought by the cosine, among all rows but the i-th itself.

    Args:
        z_BD: B/2 first views, then the second ones in the same order.
        temperature: Cosines are divided by it.

    Returns:
        The mean loss, and the share of rows that are found.
    """
    B = len(z_BD)
    z_BD = F.normalize(z_BD)
    # Autocast would round the cosines to bf16.
    with torch.autocast(z_BD.device.type, enabled=False):
        scores_BB = z_BD @ z_BD.T / temperature
    itself = torch.eye(B, dtype=torch.bool, device=z_BD.device)
    scores_BB = scores_BB.masked_fill(itself, -math.inf)
    other = (torch.arange(B, device=z_BD.device) + B // 2) % B
    share = (scores_BB.detach().argmax(1) == other).float().mean()
    return F.cross_entropy(scores_BB, other), share


class Covered(Pretext):
    """SimMIM (Xie et al., arXiv 2111.09886): guess the pixels of covered patches.

    A learned token stands for a covered patch, in its place: token mixing takes a fixed
    number of tokens, so the short sequences of a masked autoencoder (He et al., arXiv
    2111.06377) are closed to a Mixer. The loss is the mean absolute error of the
    covered patches, each normalised by its own mean and deviation.
    """

    def __init__(self, model: IsotropicMlp, choice: PretextChoice) -> None:
        super().__init__(model, _Guess(model))
        self.share = choice.mask_ratio

    def covering(self) -> int:
        """Return S, one number for each patch."""
        return self.model.config.num_patches

    def forward(
        self, images: Tensor, draws_BS: Tensor, draws_BL2: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return loss and no right answers of guessing; see `Pretext.forward`."""
        assert isinstance(self.own, _Guess)
        mask_BS = self.mask(draws_BS)
        x_BSC = self.model.stem(images)
        token_C = self.own.token.to(x_BSC.dtype)
        x_BSC = torch.where(mask_BS[..., None], token_C, x_BSC)
        x_BSC = self.model.forward_tokens(x_BSC, draws_BL2)
        guessed = self.own.pixels(x_BSC[mask_BS]).float()
        expected = self.expected(images)[mask_BS]
        return F.l1_loss(guessed, expected), torch.zeros((), device=images.device)

    def mask(self, draws_BS: Tensor) -> Tensor:
        """Return which patches are covered (B, S), as many in each image.

        Args:
            draws_BS: Numbers in [0, 1).
        """
        S = draws_BS.shape[1]
        covered = min(S, max(1, round(self.share * S)))
        # The places of sorted random numbers are a random permutation.
        return draws_BS.argsort(dim=1, stable=True) < covered

    def expected(self, images: Tensor) -> Tensor:
        """Return the normalised pixels (B, S, P) of each patch.

        Args:
            images: (B, in_channels, H, W), as the network sees them.
        """
        side = self.model.config.patch_size
        pixels_BSP = F.unfold(images, side, stride=side).transpose(1, 2)
        mean = pixels_BSP.mean(dim=2, keepdim=True)
        # Patches of one colour would be divided by nothing.
        std = pixels_BSP.std(dim=2, keepdim=True, correction=0) + 0.1
        return (pixels_BSP - mean) / std


class _Guess(nn.Module):
    """What stands for a covered patch, and the layer that guesses its pixels."""

    def __init__(self, model: IsotropicMlp) -> None:
        super().__init__()
        config = model.config
        self.token = nn.Parameter(torch.zeros(config.hidden_dim))
        count = config.patch_size**2 * config.in_channels
        self.pixels = nn.Linear(config.hidden_dim, count)


def build_pretext(choice: PretextChoice, model: IsotropicMlp) -> Pretext | None:
    """Return the task of a run, on the device of its network; None if it has labels.

    Args:
        choice: The task.
        model: The network; what the task has besides is drawn from torch's generator.

    Raises:
        UserError: The network cannot do the task.
    """
    if choice.name == "none":
        return None
    config = model.config
    task: Pretext
    if choice.name == "views":
        task = Views(model, choice)
    else:
        if isinstance(config, TokenMixingConfig) and config.pyramid:
            raise UserError(
                "pretext.name=covered needs a token for every patch, and a pyramid "
                "merges them: use pretext.name=views"
            )
        task = Covered(model, choice)
    return task.to(model.stem.proj.weight.device)


def check_pretext(config: TrainConfig) -> None:
    """Check that nothing in a run without labels needs labels, or smaller batches.

    Args:
        config: The run.

    Raises:
        UserError: A setting does not go with the task.
    """
    choice = config.pretext
    if choice.name == "none":
        if choice != PretextChoice():
            raise UserError(
                "pretext.temperature, projection_dim and mask_ratio are of a task: set "
                "pretext.name, or leave them out"
            )
        return
    for name, wanted in _UNFIT.items():
        group, field = name.split(".")
        value = getattr(getattr(config, group), field)
        if value != wanted:
            raise UserError(
                f"{name}={value} does not go with pretext.name={choice.name}: "
                f"{_REASONS[group]}; leave it out"
            )
    if choice.name == "views":
        _check_views(config)
    elif config.data.repeats != 1:
        raise UserError(
            "pretext.name=covered looks at each image by itself: set data.repeats=1"
        )


# Settings that would be ignored, or do harm, with their values that do neither.
_UNFIT = {
    "mix.mixup": 0.0,
    "mix.cutmix": 0.0,
    "distill.teacher": None,
    "optim.rho": 0.0,
    "augment.sides": (),
    "train.loss": "softmax",
    "train.label_smoothing": 0.0,
    "train.patience": None,
    "train.parallel": "ddp",
}
_REASONS = {
    "mix": "images are mixed with their labels",
    "distill": "a teacher names classes",
    "optim": "sharpness-aware steps are of a classifier",
    "augment": "the task is for one image size",
    "train": "it is for a classifier",
}


def _check_views(config: TrainConfig) -> None:
    if config.data.repeats != 2:
        raise UserError(
            "pretext.name=views compares two views of each image: set data.repeats=2 "
            f"(now {config.data.repeats})"
        )
    if config.train.accumulate != 1:
        raise UserError(
            "pretext.name=views compares the whole batch: set train.accumulate=1 and, if "
            "memory is too small, a smaller train.batch_size"
        )
    if config.train.batch_size < _LEAST_VIEWS:
        raise UserError(
            f"train.batch_size {config.train.batch_size} leaves nothing to compare: "
            f"expected at least {_LEAST_VIEWS}, two views of two images"
        )
