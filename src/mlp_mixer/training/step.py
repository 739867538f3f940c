"""One optimiser step: from a batch to new weights, as a function of (configuration,
step) and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..data.loader import Batch
from ..devices import autocast
from ..distributed import rank, world_size
from ..images.mix import apply, mix_plan, soft_targets
from ..models import MlpMixer
from ..randomness import batch_positions, drop_path_uniforms, torch_seed
from .extras.distill import Teacher
from .extras.elastic import Elastic, at_a_side
from .optim.build import Ema, set_lr
from .optim.sam import rho_at, sharpness_gradients
from .optim.schedule import lr_factor
from .run import Run

Chunk = tuple[Tensor, Tensor, Tensor | None]


class StepResult(NamedTuple):
    """What a step measured, on its device: mean loss, share of right answers, norm of
    the gradient before clipping.
    """

    loss: Tensor
    right: Tensor
    grad_norm: Tensor


class Stepper:
    """Forward, loss, backward, clipping, optimiser, average: the parts of a step, in
    order of use.
    """

    def __init__(
        self, run: Run, network: nn.Module, optimizer: Optimizer, ema: Ema | None
    ) -> None:
        """network: the model as it is called (wrapped for several processes, compiled)."""
        sides = run.config.augment.sides
        self.network = (
            Elastic(network, sides)
            if sides and isinstance(network, MlpMixer)
            else network
        )
        self.run = run
        self.optimizer = optimizer
        self.ema = ema
        self.choice = run.config.train
        self.loss_of: Callable[..., tuple[Tensor, Tensor]] = (
            torch.compile(self._loss) if self.choice.compile else self._loss
        )

    def __call__(self, batch: Batch, step: int) -> StepResult:
        """Update the weights."""
        run = self.run
        torch.manual_seed(torch_seed(self.choice.seed, step))
        images, targets, draws = self.inputs(batch, step)
        self.optimizer.zero_grad()
        loss, right = self.backward(images, targets, draws, step)
        parameters = list(run.model.parameters())
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in parameters if p.grad is not None]
        )
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if run.config.optim.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(
                parameters, run.config.optim.clip_norm, norm
            )
        set_lr(self.optimizer, self.lr(step))
        self.optimizer.step()
        if self.ema:
            self.ema.update(step)
        return StepResult(loss, right, norm)

    def inputs(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalised and mixed images, targets, stochastic depth's draws.

        Targets are class numbers (B,), or shares of the classes (B, K); with a
        teacher's (B, 2, K).
        """
        run = self.run
        choice = self.choice
        batch = batch.to(run.device)
        images = run.preprocess.normalize(batch.images)
        targets = batch.labels
        classes = run.model.config.num_classes
        if run.config.mix.active:
            plan = mix_plan(
                run.config.mix, choice.seed, step, run.preprocess.image_size
            )
            images, targets = apply(
                plan, images, targets, classes, run.config.mix.group
            )
            targets = (
                targets * (1 - choice.label_smoothing)
                + choice.label_smoothing / classes
            )
        elif choice.loss == "sigmoid":
            targets = soft_targets(targets, classes, choice.label_smoothing)
        if run.config.augment.sides:
            images = at_a_side(images, run.config.augment.sides, choice.seed, step)
        if run.teacher:
            hard = (
                soft_targets(targets, classes, choice.label_smoothing)
                if targets.ndim == 1
                else targets
            )
            targets = torch.stack([hard, self.taught(run.teacher, images)], dim=1)
        return images, targets, self.depth_draws(step)

    def taught(self, teacher: Teacher, images: Tensor) -> Tensor:
        """(B, K): the shares that the teacher gives the classes, computed in as many
        parts as the student's answers.
        """
        with autocast(self.choice.precision, self.run.device):
            logits = torch.cat(
                [teacher(part) for part in images.chunk(self.choice.accumulate)]
            )
        return (logits / self.run.config.distill.temperature).softmax(1)

    def depth_draws(self, step: int) -> Tensor | None:
        """(B, L, 2): each sample's own numbers for stochastic depth, the same in
        however many processes.
        """
        config = self.run.model.config
        if config.drop_path == 0:
            return None
        seed = self.choice.seed
        size = self.choice.batch_size
        epochs, indices = batch_positions(
            step, size, len(self.run.train), seed, self.run.config.data.repeats
        )
        share = size // world_size()
        mine = slice(rank() * share, (rank() + 1) * share)
        draws = drop_path_uniforms(
            seed, epochs[mine], indices[mine], 2 * config.num_blocks
        )
        return (
            torch.from_numpy(draws.astype(np.float32))
            .reshape(len(draws), -1, 2)
            .to(self.run.device)
        )

    def backward(
        self, images: Tensor, targets: Tensor, draws: Tensor | None, step: int
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the mean loss in `.grad`, from `accumulate` parts; gives loss
        and share of right answers.
        """
        if self.run.config.optim.rho:
            return self._sharp_backward(images, targets, draws, step)
        total = right = torch.zeros((), device=images.device)
        chunks = _split(
            images, targets, draws, -(-len(images) // self.choice.accumulate)
        )
        for number, chunk in enumerate(chunks, start=1):
            with self._gradients_stay_here(number < len(chunks)):
                loss, correct = self.loss_of(*chunk)
                loss = loss * (len(chunk[0]) / len(images))
                loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
            right = right + correct / len(images)
        return total, right

    def _sharp_backward(
        self, images: Tensor, targets: Tensor, draws: Tensor | None, step: int
    ) -> tuple[Tensor, Tensor]:
        """As `backward`, for SAM and GSAM, with an ascent step for every `sam_images`
        images.
        """
        run = self.run
        optim = self.run.config.optim
        chunks = _split(images, targets, draws, optim.sam_images or len(images))
        correct: list[Tensor] = []

        def loss_of(chunk: Chunk) -> Tensor:
            loss, right = self.loss_of(*chunk)
            correct.append(right)  # twice for each chunk: before and after the ascent
            return loss

        factor = lr_factor(step, run.total_steps, run.warmup_steps, run.config.schedule)
        rho = rho_at(factor, optim, run.config.schedule)
        loss = sharpness_gradients(
            self.network, loss_of, chunks, rho=rho, alpha=optim.alpha
        )
        return loss, torch.stack(correct[::2]).sum() / len(images)

    def _loss(
        self, images: Tensor, targets: Tensor, draws: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean loss in fp32, and how many answers are right (mixed images count for
        their larger part).
        """
        with autocast(self.choice.precision, self.run.device):
            logits = self.network(images, draws)
        logits = logits.float()
        teaching = self.run.config.distill
        targets, taught = (
            (targets[:, 0], targets[:, 1]) if targets.ndim == 3 else (targets, None)
        )
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        correct = (logits.detach().argmax(1) == labels).sum()
        if (
            self.choice.loss == "sigmoid"
        ):  # summed over the classes, as big_vision's sigmoid_xent
            return F.binary_cross_entropy_with_logits(
                logits, targets, reduction="none"
            ).sum(1).mean(), correct
        smoothing = self.choice.label_smoothing if targets.ndim == 1 else 0.0
        loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        if taught is not None:
            T = teaching.temperature
            own = (logits / teaching.temperature).log_softmax(1)
            loss = (
                loss * (1 - teaching.weight)
                + T**2 * F.kl_div(own, taught, reduction="batchmean") * teaching.weight
            )
        return loss, correct

    def _gradients_stay_here(self, wanted: bool) -> AbstractContextManager[Any]:
        """Inside, several processes do not exchange gradients: the last part of a batch
        does it for all.
        """
        if wanted and isinstance(self.network, DistributedDataParallel):
            return self.network.no_sync()
        return nullcontext()

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        config = self.run.config
        return config.optim.lr * lr_factor(
            step, self.run.total_steps, self.run.warmup_steps, config.schedule
        )


def _split(
    images: Tensor, targets: Tensor, draws: Tensor | None, size: int
) -> list[Chunk]:
    parts = range(0, len(images), size)
    return [
        (
            images[i : i + size],
            targets[i : i + size],
            None if draws is None else draws[i : i + size],
        )
        for i in parts
    ]
