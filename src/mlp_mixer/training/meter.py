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
    """Mean loss and accuracy, throughput, the share of time spent waiting for data,
    memory, since the last reading.

    Losses stay on the device until then, so measuring does not hold up the queue of a
    GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums = torch.zeros(3, device=device)  # loss, right, norm
        self.first_bad = torch.full(
            (), -1, device=device
        )  # the first step with a loss or gradient that is no number
        self.steps = self.images = 0
        self.waited = 0.0
        self.started = time.perf_counter()

    def start_clock_if_empty(self) -> None:
        """After a reading, leave out the time that evaluating and saving took."""
        if self.steps == 0:
            self.started = time.perf_counter()
            self.waited = 0.0

    def waiting_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, with the time it takes until each is there."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def add(self, done: StepResult, images: int, step: int) -> None:
        """Take in one step of one process's share of images."""
        values = torch.stack([done.loss, done.right, done.grad_norm])
        bad = ~torch.isfinite(values).all()
        self.first_bad = torch.where((self.first_bad < 0) & bad, step, self.first_bad)
        self.sums += values
        self.steps = self.steps + 1
        self.images = self.images + images

    def read(self) -> tuple[JournalRow, int | None]:
        """The row, empty if there was no step, and the first bad step if there was one;
        then begin anew.
        """
        seconds = time.perf_counter() - self.started
        steps = self.steps
        images = self.images * world_size()
        bad = [step for step in all_gather(int(self.first_bad.item())) if step >= 0]
        loss, right, norm = (all_reduce_mean(self.sums) / max(1, steps)).tolist()
        row = {
            "loss": round(loss, 6),
            "train_top1": round(right, 4),
            "grad_norm": round(norm, 4),
            "images_per_second": round(images / seconds, 1),
            "data_wait": round(self.waited / seconds, 3),
            "memory_mib": round(_memory(self.device) / 2**20),
            "seconds": round(seconds, 4),
        }
        self.sums.zero_()
        self.first_bad.fill_(-1)
        self.steps = self.images = 0
        return (row if steps else {}), min(bad) if bad else None


def _memory(device: torch.device) -> int:
    """The most bytes that this process has held: on a GPU, or of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
