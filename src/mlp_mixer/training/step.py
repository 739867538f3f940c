"""One optimiser step: from a batch to new weights.

It is a function of the configuration, the weights, the batch and the number of the
step; nothing else is remembered from the step before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..data.loader import Batch
from ..devices import autocast
from ..distributed import rank, world_size
from ..images.mix import apply, mix_plan, soft_targets
from ..models import IsotropicMlp
from ..randomness import covering_uniforms, drop_path_uniforms, torch_seed
from .extras.distill import Teacher
from .extras.elastic import Elastic, at_a_side
from .extras.imbalance import class_weights
from .extras.pretext import Pretext
from .gradients import SpikeWatch, block_norms, total_norm
from .optim.build import Ema, set_lr
from .optim.sam import rho_at, sharpness_gradients
from .optim.schedule import lr_factor
from .run import Run

# Images, targets, and the numbers for stochastic depth, as `Stepper.inputs` gives them.
Inputs = tuple[Tensor, Tensor, Tensor | None]


class StepResult(NamedTuple):
    """Holds what a step measured on this process's images, still on their device.

    Attributes:
        loss: The mean loss.
        right: The share of right answers.
        grad_norm: The norm of the gradient before clipping.
        block_norms: Likewise of each block, where they were to be measured.
        spike: Why the step was left out, "" if it was taken.
    """

    loss: Tensor
    right: Tensor
    grad_norm: Tensor
    block_norms: dict[str, Tensor] | None = None
    spike: str = ""


class Stepper:
    """Takes a step: inputs, loss, gradients, clipping, optimiser, average of weights."""

    def __init__(
        self, run: Run, network: nn.Module, optimizer: Optimizer, ema: Ema | None
    ) -> None:
        """Keep what all steps share.

        Args:
            run: The run; its model holds the weights.
            network: The model as it is called, wrapped where there are several
                processes.
            optimizer: The optimiser over the model's parameters.
            ema: The average that follows the weights, if there is one.
        """
        self.run = run
        self.network = network
        self.optimizer = optimizer
        self.ema = ema
        self.choice = run.config.train
        self.class_weights = self._class_weights()
        self.several = run.train.targets is not None
        self.spikes = None
        if self.choice.on_spike == "skip":
            self.spikes = SpikeWatch(self.choice.spike_factor)
        # In DDP, `parallel.wrap` has made the network elastic already.
        sides = run.config.augment.sides
        if sides and isinstance(network, IsotropicMlp):
            self.network = Elastic(network, sides)
        self.loss_of: Callable[..., tuple[Tensor, Tensor]] = self._loss
        if self.choice.compile:
            self.loss_of = torch.compile(self._loss)

    def _class_weights(self) -> Tensor | None:
        """Return the weight of each class (K,) in the loss, None where all are equal."""
        if self.choice.class_weights == "none":
            return None
        weights = torch.from_numpy(class_weights(self.run.train))
        return weights.float().to(self.run.device)

    def __call__(self, batch: Batch, step: int) -> StepResult:
        """Update the weights, unless the gradient is a spike that is to be left out.

        Args:
            batch: This process's share of the batch of the step.
            step: Its number, counted from 0.
        """
        # Dropout draws from torch's generator. Seeded anew in each step, the generator
        # need not be saved, and a resumed run draws what an unbroken one would.
        torch.manual_seed(torch_seed(self.choice.seed, step))
        images, targets, draws = self.inputs(batch, step)

        self.optimizer.zero_grad()
        loss, right = self.backward(images, targets, draws, step)
        # Before clipping, which changes the gradients in place.
        by_block = self.block_norms(step)
        grad_norm = self.clip()

        # All processes have the same norm, so they agree.
        spike = self.spikes.check(grad_norm.item()) if self.spikes else ""
        if spike:
            return StepResult(loss, right, grad_norm, by_block, spike)

        set_lr(self.optimizer, self.lr(step))
        self.optimizer.step()
        if self.ema:
            self.ema.update(step)
        return StepResult(loss, right, grad_norm, by_block)

    def block_norms(self, step: int) -> dict[str, Tensor] | None:
        """Return the norm of each block's gradient at every n-th step, else None.

        Args:
            step: The number of the step.
        """
        every = self.choice.block_norms_every_steps
        if every is None or step % every:
            return None
        return block_norms(self.run.model, self.run.beside)

    def inputs(self, batch: Batch, step: int) -> Inputs:
        """Turn a batch into what the network and the loss take, on the run's device.

        Args:
            batch: This process's share of the batch.
            step: The number of the step.

        Returns:
            Images (B, C, H, W), normalised and mixed; targets, either class numbers (B,)
            or shares of the classes (B, K), with a teacher (B, 2, K): the labels' and
            the teacher's, with a pretext random numbers of its own; numbers (B, L, 2)
            for stochastic depth, or None.
        """
        run = self.run
        choice = self.choice
        classes = run.model.config.num_classes
        batch = batch.to(run.device)
        images = run.preprocess.normalize(batch.images)
        if run.task:
            return images, self.covering_draws(run.task, step), self.depth_draws(step)
        targets = batch.labels

        if run.config.mix.active:
            images, targets = self._mixed(images, targets, step)
        elif choice.loss == "sigmoid" or self.class_weights is not None:
            targets = soft_targets(targets, classes, choice.label_smoothing)

        # After mixing: a CutMix box is drawn in pixels of the model's own size.
        if run.config.augment.sides:
            images = at_a_side(images, run.config.augment.sides, choice.seed, step)

        # Last, because a teacher answers to the very images that the student sees; this
        # is what Beyer et al. 2021 (arXiv 2106.05237) found to matter.
        if run.teacher:
            if targets.ndim == 1:
                targets = soft_targets(targets, classes, choice.label_smoothing)
            answers = self.teacher_shares(run.teacher, images)
            targets = torch.stack([targets, answers], dim=1)
        return images, targets, self.depth_draws(step)

    def _mixed(
        self, images: Tensor, labels: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Mix images and labels as the configuration says, and smooth the labels."""
        mix = self.run.config.mix
        classes = self.run.model.config.num_classes
        size = self.run.preprocess.image_size
        plan = mix_plan(mix, self.choice.seed, step, size)
        images, shares = apply(plan, images, labels, classes, mix.group)
        smoothing = self.choice.label_smoothing
        return images, shares * (1 - smoothing) + smoothing / classes

    def teacher_shares(self, teacher: Teacher, images: Tensor) -> Tensor:
        """Return the shares (B, K) that a teacher gives the classes.

        Args:
            teacher: The network that answers.
            images: The student's images (B, C, H, W).
        """
        # In as many parts as the student computes: a large teacher must fit as well.
        parts = images.chunk(self.choice.accumulate)
        with autocast(self.run.precision, self.run.device):
            logits = torch.cat([teacher(part) for part in parts])
        return (logits / self.run.config.distill.temperature).softmax(1)

    def depth_draws(self, step: int) -> Tensor | None:
        """Return uniform numbers (B, L, 2) for stochastic depth, None without it.

        They belong to the image and its visit, so they are the same for any number of
        processes.

        Args:
            step: The number of the step.
        """
        config = self.run.model.config
        if config.drop_path == 0:
            return None
        epochs, indices = self._own_positions(step)
        count = 2 * config.num_blocks
        draws = drop_path_uniforms(self.choice.seed, epochs, indices, count)
        draws_BL2 = torch.from_numpy(draws.astype(np.float32))
        return draws_BL2.reshape(len(draws), -1, 2).to(self.run.device)

    def covering_draws(self, task: Pretext, step: int) -> Tensor:
        """Return the numbers (B, S) that a task wants of each image.

        Args:
            task: The task.
            step: The number of the step.
        """
        epochs, indices = self._own_positions(step)
        count = task.covering()
        draws = covering_uniforms(self.choice.seed, epochs, indices, count)
        return torch.from_numpy(draws).to(self.run.device, torch.float32)

    def _own_positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the epochs and indices of this process's images at a step."""
        epochs, indices = self.run.batches().positions(step)
        share = self.choice.batch_size // world_size()
        mine = slice(rank() * share, (rank() + 1) * share)
        return epochs[mine], indices[mine]

    def backward(
        self, images: Tensor, targets: Tensor, draws: Tensor | None, step: int
    ) -> tuple[Tensor, Tensor]:
        """Put the gradient of the mean loss into `.grad`.

        Args:
            images: From `inputs`.
            targets: From `inputs`.
            draws: From `inputs`.
            step: The number of the step.

        Returns:
            The mean loss, and the share of right answers.
        """
        if self.run.config.optim.rho:
            return self._sharp_backward(images, targets, draws, step)
        total = torch.zeros((), device=images.device)
        right = torch.zeros((), device=images.device)
        size = -(-len(images) // self.choice.accumulate)
        chunks = _split(images, targets, draws, size)
        for number, chunk in enumerate(chunks, start=1):
            last = number == len(chunks)
            with nullcontext() if last else self._no_exchange():
                loss, correct = self.loss_of(*chunk)
                # Weighted by its size, because the last part may be smaller.
                loss = loss * (len(chunk[0]) / len(images))
                loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
            right = right + correct / len(images)
        return total, right

    def _sharp_backward(
        self, images: Tensor, targets: Tensor, draws: Tensor | None, step: int
    ) -> tuple[Tensor, Tensor]:
        """Do as `backward`, for SAM and GSAM: an ascent step for each `sam_images`."""
        run = self.run
        optim = run.config.optim
        chunks = _split(images, targets, draws, optim.sam_images or len(images))
        correct: list[Tensor] = []

        def loss_of(chunk: Inputs) -> Tensor:
            loss, right = self.loss_of(*chunk)
            correct.append(right)
            return loss

        factor = lr_factor(step, run.total_steps, run.warmup_steps, run.config.schedule)
        rho = rho_at(factor, optim, run.config.schedule)
        loss = sharpness_gradients(
            self.network, loss_of, chunks, rho=rho, alpha=optim.alpha
        )
        # Each chunk is computed twice; the answers before its ascent step count.
        before_ascent = torch.stack(correct[::2])
        return loss, before_ascent.sum() / len(images)

    def _loss(
        self, images: Tensor, targets: Tensor, draws: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss in fp32, and the number of right answers.

        A mixed image counts as right if the answer is the class of its larger part, and
        an image with several labels if the best answer is one of them.
        """
        with autocast(self.run.precision, self.run.device):
            if self.run.task:
                loss, correct = self.network(images, targets, draws)
                return loss, correct
            logits = self.network(images, draws)
        # In bf16, the softmax of many classes would not add up to one.
        logits = logits.float()

        answers = None
        if targets.ndim == 3:
            answers = targets[:, 1]
            targets = targets[:, 0]
        best = logits.detach().argmax(1)
        if self.several:
            correct = (targets.gather(1, best[:, None]) > 0.5).sum()
        else:
            labels = targets if targets.ndim == 1 else targets.argmax(1)
            correct = (best == labels).sum()

        if self.choice.loss == "sigmoid":
            # The weight is that of a yes: of it a rare class has too few.
            losses = F.binary_cross_entropy_with_logits(
                logits, targets, reduction="none", pos_weight=self.class_weights
            )
            # Summed over the classes, as big_vision's sigmoid_xent.
            return losses.sum(1).mean(), correct

        # Shares of classes are smoothed already.
        smoothing = self.choice.label_smoothing if targets.ndim == 1 else 0.0
        # For shares of classes torch divides by the number of images, not by the sum of
        # their weights: parts of a batch and processes add up.
        loss = F.cross_entropy(
            logits, targets, weight=self.class_weights, label_smoothing=smoothing
        )
        if answers is not None:
            loss = self._distilled(loss, logits, targets, answers)
        return loss, correct

    def _distilled(
        self, loss: Tensor, logits: Tensor, targets: Tensor, answers: Tensor
    ) -> Tensor:
        """Mix the loss of the labels with the divergence from the teacher's answers."""
        choice = self.run.config.distill
        T = choice.temperature
        own = (logits / T).log_softmax(1)
        if self.class_weights is None:
            divergence = F.kl_div(own, answers, reduction="batchmean")
        else:
            # An image counts by the weight of its class, whoever is listened to.
            each = F.kl_div(own, answers, reduction="none").sum(1)
            divergence = (each * (targets @ self.class_weights)).mean()
        # A gradient through logits / T is smaller by 1 / T^2: T^2 gives the two losses
        # the same scale (Hinton et al. 2015, arXiv 1503.02531).
        return loss * (1 - choice.weight) + T**2 * divergence * choice.weight

    def _no_exchange(self) -> AbstractContextManager[Any]:
        """Keep gradients in this process for the block; the last part exchanges all."""
        if isinstance(self.network, DistributedDataParallel):
            return self.network.no_sync()
        return nullcontext()

    def clip(self) -> Tensor:
        """Clip the gradient over all parameters; return its norm before that."""
        learning = self.run.task or self.run.model
        parameters = list(learning.parameters())
        norm = total_norm(parameters)
        # Measured even if nothing is clipped: the norm is the first number to look at
        # when a loss diverges.
        most = self.run.config.optim.clip_norm
        if most is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return norm

    def lr(self, step: int) -> float:
        """Return the learning rate of a step.

        Args:
            step: Its number, counted from 0.
        """
        run = self.run
        factor = lr_factor(step, run.total_steps, run.warmup_steps, run.config.schedule)
        return run.config.optim.lr * factor


def _split(
    images: Tensor, targets: Tensor, draws: Tensor | None, size: int
) -> list[Inputs]:
    """Cut the inputs into parts of `size` images; the last may be smaller."""
    parts: list[Inputs] = []
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        draws_of_part = None if draws is None else draws[part]
        parts.append((images[part], targets[part], draws_of_part))
    return parts
