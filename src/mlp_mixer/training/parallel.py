"""One model in several processes: whole in each (DDP), or a part in each (FSDP2)."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ..distributed import active, is_main, world_size
from ..errors import UserError
from ..models import IsotropicMlp, build_network
from .config import TrainConfig
from .extras.elastic import Elastic
from .extras.pretext import Pretext, check_pretext


def check_parallel(config: TrainConfig) -> None:
    """Check that the batch can be shared out evenly over the processes.

    This is the only place that tells users; the loader and the mixing assert it.

    Args:
        config: The run; the number of processes is that of the process group.

    Raises:
        UserError: A size does not divide another, or an option needs whole weights.
    """
    check_pretext(config)
    choice = config.train
    optim = config.optim
    batch = choice.batch_size
    processes = world_size()
    if batch % processes:
        nearest = max(1, round(batch / processes)) * processes
        raise UserError(
            f"train.batch_size {batch} cannot be shared evenly by {processes} processes; "
            f"use {nearest}"
        )
    if batch % config.data.repeats:
        raise UserError(
            f"train.batch_size {batch} must be a multiple of the {config.data.repeats} "
            "repeats of each image; change it or data.repeats"
        )
    share = batch // processes
    if config.mix.active and share % config.mix.group:
        raise UserError(
            f"mix.group {config.mix.group} does not divide the {share} images that each "
            "process has of a batch; change train.batch_size or mix.group"
        )
    if not optim.rho:
        return
    if optim.sam_images and share % optim.sam_images:
        raise UserError(
            f"optim.sam_images {optim.sam_images} does not divide the {share} images that "
            "each process has of a batch; every ascent step must have as many"
        )
    if choice.parallel == "fsdp":
        raise UserError(
            "sharpness-aware minimisation needs whole weights in each process: use "
            "train.parallel=ddp"
        )


def shard(model: IsotropicMlp, config: TrainConfig) -> None:
    """Split the parameters of a model over the processes, in place.

    Nothing happens unless the run asks for FSDP and there are several processes.

    Args:
        model: The network, on its device; its parameters become `DTensor`s.
        config: The run.
    """
    if config.train.parallel != "fsdp" or not active():
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = model.stem.proj.weight.device
    mesh = init_device_mesh(device.type, (world_size(),))
    # The root module would keep what it gathered after a forward pass, because a
    # backward pass needs it at once. An average has no backward pass: its next
    # evaluation would use the gathered weights of the last one.
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def wrap(
    model: IsotropicMlp, config: TrainConfig, task: Pretext | None = None
) -> nn.Module:
    """Return what the training step calls: a network that averages its gradients.

    Args:
        model: The network, on its device, sharded if the run asks for it.
        config: The run.
        task: Of a run without labels: what is called instead of the model inside it.

    Returns:
        The model or the task itself for one process and for FSDP, else one of them in
        DDP.
    """
    network: nn.Module = task or model
    if not active() or config.train.parallel == "fsdp":
        return network
    device = model.stem.proj.weight.device
    if config.augment.sides:
        network = Elastic(model, config.augment.sides)
    device_ids = [device.index] if device.type == "cuda" else None
    wrapped = DistributedDataParallel(network, device_ids=device_ids)

    # DDP rearranges its buckets after the first backward pass, and with them the order
    # of sums. Two passes before the first step let it do so where nothing depends on
    # it; a resumed run then adds in the same order as one that was never stopped.
    size = (model.config.in_channels, *model.config.image_size)
    for _ in range(2):
        if task:
            wrapped(*task.example())[0].backward()
        else:
            wrapped(torch.zeros(1, *size, device=device)).sum().backward()
    network.zero_grad()
    return wrapped


def gathered(model: IsotropicMlp) -> IsotropicMlp:
    """Return a model with whole weights, which the main process can write.

    All processes must call this.

    Args:
        model: The network, sharded or not.

    Returns:
        The model itself if it is not sharded, else a copy on the CPU in evaluation
        mode; only that of the main process has weights.
    """
    state = model.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in state.values()):
        return model
    with torch.device("meta"):
        whole = build_network(model.config)
    # One tensor at a time: the whole network never lies on a device beside its part.
    for name, tensor in state.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_main():
            whole.load_state_dict({name: full.cpu()}, strict=False, assign=True)
    return whole.eval()
