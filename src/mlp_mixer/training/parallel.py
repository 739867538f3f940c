"""One model in several processes: whole in each (DDP), or a part in each (FSDP2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..distributed import active, world_size
from ..errors import UserError
from ..models import MlpMixer
from .config import TrainConfig
from .extras.elastic import Elastic


def check_parallel(config: TrainConfig) -> None:
    """`UserError` for what cannot be shared out evenly, or at all."""
    choice = config.train
    processes = world_size()
    if choice.batch_size % processes:
        nearest = max(1, round(choice.batch_size / processes)) * processes
        raise UserError(
            f"train.batch_size {choice.batch_size} cannot be shared evenly by {processes} processes; use {nearest}"
        )
    share = choice.batch_size // processes
    if config.mix.active and share % config.mix.group:
        raise UserError(
            f"each process has {share} images of a batch, no multiple of mix.group={config.mix.group}; "
            "use another batch size or number of processes"
        )
    if config.optim.rho and config.optim.sam_images and share % config.optim.sam_images:
        raise UserError(
            f"each process has {share} images of a batch, no multiple of optim.sam_images={config.optim.sam_images}; "
            "every ascent step must have as many"
        )
    if config.optim.rho and choice.parallel == "fsdp":
        raise UserError(
            "sharpness-aware minimisation needs whole weights in each process: use train.parallel=ddp"
        )


def shard(model: MlpMixer, config: TrainConfig) -> None:
    """Split the parameters of each block, and of the rest, over the processes, in
    place, if the run asks for it.
    """
    if config.train.parallel != "fsdp" or not active():
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(model.stem.proj.weight.device.type, (world_size(),))
    for module in (
        *model.blocks,
        model,
    ):  # all let go of what they gathered, or an average is judged by old weights
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def wrap(model: MlpMixer, config: TrainConfig) -> nn.Module:
    """What the training step calls: the model, or a wrapper that averages gradients
    over the processes.

    DDP rearranges its buckets after the first backward pass, and with them the order of
    sums. Two passes before the first step let it do so where nothing depends on it; a
    resumed run then adds in the same order as one never stopped.
    """
    if not active() or config.train.parallel == "fsdp":
        return model
    device = model.stem.proj.weight.device
    network = Elastic(model, config.augment.sides) if config.augment.sides else model
    wrapped = DistributedDataParallel(
        network, device_ids=[device.index] if device.type == "cuda" else None
    )
    size = (model.config.in_channels, *model.config.image_size)
    for _ in range(2):
        wrapped(torch.zeros(1, *size, device=device)).sum().backward()
    model.zero_grad()
    return wrapped


def check_same_on_all_ranks(value: Any, what: str) -> None:
    """`UserError` unless all processes have the same value: they would train different
    things.
    """
    if active():
        values: list[Any] = [None] * world_size()
        dist.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            raise UserError(
                f"the processes disagree about {what} ({values}); give them the same data and an --out that all share"
            )
