"""What a person wants to know between two lines of the journal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import torch

from ..data.loader import Batch
from ..distributed import all_gather, all_reduce_mean, world_size
from .journal import JournalRow
from .step import StepResult


class Meter:
    """Sums up loss, accuracy, speed, waiting time and memory since the last reading.

    The losses stay on the device until they are read. A `.item()` in every step would
    make the processor wait for the GPU, and the GPU then for the processor.
    """

    def __init__(
        self,
        device: torch.device,
        right_name: str | None = "train_top1",
        clip_norm: float | None = None,
    ) -> None:
        """Start to measure.

        Args:
            device: The device of the losses.
            right_name: What rows call the share of right answers; None leaves it out.
            clip_norm: Longer gradients are clipped; None: none is.
        """
        self.device = device
        self.right_name = right_name
        self.clip_norm = clip_norm
        # Loss, share of right answers, norm of the gradient, whether it was clipped.
        self.sums = torch.zeros(4, device=device)
        self.block_norms: list[dict[str, torch.Tensor]] = []
        # The first step with a loss or gradient that is not finite, -1 before one.
        self.first_bad = torch.full((), -1, device=device)
        self.steps = 0
        self.images = 0
        self.waited = 0.0
        self.started = time.perf_counter()

    def start_clock_if_empty(self) -> None:
        """Leave out the time that evaluating and saving took after a reading."""
        if self.steps == 0:
            self.started = time.perf_counter()
            self.waited = 0.0

    def waiting_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches, and measure how long each one takes to arrive.

        Args:
            batches: The batches of the run.
        """
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def add(self, result: StepResult, images: int, step: int) -> None:
        """Add one step.

        Args:
            result: What the step measured on this process's share of the batch.
            images: How many images that share has.
            step: Its number, counted from 0.
        """
        clipped = torch.zeros_like(result.grad_norm)
        if self.clip_norm is not None:
            clipped = (result.grad_norm > self.clip_norm).to(clipped)
        values = torch.stack([result.loss, result.right, result.grad_norm, clipped])
        # `torch.where` instead of `if`: the comparison stays on the device too.
        bad = ~torch.isfinite(values).all()
        self.first_bad = torch.where((self.first_bad < 0) & bad, step, self.first_bad)
        self.sums += values
        if result.block_norms:
            self.block_norms.append(result.block_norms)
        self.steps += 1
        self.images += images

    def read(self) -> tuple[JournalRow, int | None]:
        """Return what was measured over all processes, and begin anew.

        Returns:
            The row, empty if there was no step; the first step with a loss or gradient
            that was not finite, None without one.
        """
        seconds = time.perf_counter() - self.started
        steps = self.steps
        images = self.images * world_size()
        # A gradient that is not finite in one process is so in all after it was
        # averaged; a loss is not.
        bad = [step for step in all_gather(int(self.first_bad.item())) if step >= 0]
        means = all_reduce_mean(self.sums) / max(1, steps)
        loss, right, norm, clipped = means.tolist()
        row: JournalRow = {"loss": round(loss, 6)}
        if self.right_name:
            row[self.right_name] = round(right, 4)
        row["grad_norm"] = round(norm, 4)
        if self.clip_norm is not None:
            row["clipped"] = round(clipped, 4)
        if self.block_norms:
            row["block_grad_norms"] = self._mean_block_norms()
        row |= {
            "images_per_second": round(images / seconds, 1),
            "data_wait": round(self.waited / seconds, 3),
            "memory_mib": round(_memory(self.device) / 2**20),
            "seconds": round(seconds, 4),
        }
        self.sums.zero_()
        self.first_bad.fill_(-1)
        self.block_norms.clear()
        self.steps = 0
        self.images = 0
        return (row if steps else {}), min(bad, default=None)

    def _mean_block_norms(self) -> dict[str, float]:
        """Return the mean norm of each block over the steps that measured it."""
        means = {}
        for name in self.block_norms[0]:
            each = torch.stack([norms[name] for norms in self.block_norms])
            # Blocks differ by orders of magnitude.
            means[name] = float(f"{each.mean().item():.4g}")
        return means


def _memory(device: torch.device) -> int:
    """Return the most bytes that this process has held: on a GPU, or of main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    # In bytes on macOS, in KiB elsewhere (getrusage(2)).
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
