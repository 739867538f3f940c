"""A Mixer on the CPU in fp32 with torch's own operators, arranged for speed: nothing is
traced, compiled or installed.

The channel MLPs' weights are packed once for MKL, not at every call; token mixing is W1
@ x with a bias per row, so nothing is transposed; GELU works in place. Threads do not
share products, for then they wait for each other after every one, and long on a busy
machine. Of a batch, each takes whole images; of a single image, its tokens in channel
mixing and its channels in token mixing, which needs two meetings per block. Axes as in
`models.mixer`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch
from torch import Tensor, nn

from ..devices import cpu_threads
from ..models.families import need_mixer
from ..models.mixer import MixerBlock, MixerConfig, MlpMixer

_LEAST_WORK = (
    2**25
    # multiply-accumulates of a channel MLP, below which Python's calls would cost more than
    # is gained
)
# tokens of an image, below which a batch is better off in the plain module, on each
# thread's share
_LEAST_ROWS = 128


def can_pack(model: MlpMixer) -> bool:
    """Whether `packed(model)` can be and pays: fp32 on the CPU, a torch built with MKL,
    and a network not too small.
    """
    weight = model.stem.proj.weight
    config = model.config
    if not isinstance(config, MixerConfig):
        return False
    large = (
        2 * config.num_patches * config.hidden_dim * config.channels_mlp_dim
        >= _LEAST_WORK
    )
    suits = weight.device.type == "cpu" and weight.dtype == torch.float32
    return large and suits and hasattr(torch.ops.mkl, "_mkl_linear")


def packed(model: MlpMixer) -> Callable[[Tensor], Tensor]:
    """Images (B, in_channels, H, W) -> what the module answers in evaluation mode, to
    rounding. Threads may share it.

    Weights that change later are not seen. Packed copies need as much memory again as
    the channel MLPs, once for batches and once for single images.
    """
    config = need_mixer(model.config, "packed")
    S = config.num_patches
    C = config.hidden_dim
    P = config.patch_size
    (height, width) = config.grid
    blocks = [cast(MixerBlock, block) for block in model.blocks]
    stem, stem_bias = _parts(model.stem.proj)
    stem_t = stem.flatten(1).t().contiguous()
    threads = min(torch.get_num_threads(), S, C)
    pool = ThreadPoolExecutor(threads, "mixer", torch.set_num_threads, (1,))
    lock = threading.Lock()
    linear = torch.ops.mkl._mkl_linear
    pack = torch.ops.mkl._mkl_reorder_linear_weight

    @functools.cache
    def packs(rows: int) -> list[tuple[Tensor, Tensor]]:
        mlps = [block.mlp_channels for block in blocks]
        return [
            (pack(mlp.fc1.weight.detach(), rows), pack(mlp.fc2.weight.detach(), rows))
            for mlp in mlps
        ]

    def share(
        image: Tensor,
        x_SC: Tensor,
        y_SC: Tensor,
        part: int,
        parts: int,
        meet: Callable[[], object],
    ) -> None:
        """One thread's share of one image: `part` of so many `parts` of the tokens, and
        of the channels.
        """
        mine, columns = (
            slice(n * part // parts, n * (part + 1) // parts) for n in (S, C)
        )
        rows = mine.stop - mine.start
        patches = (
            image.reshape(-1, height, P, width, P).permute(1, 3, 0, 2, 4).reshape(S, -1)
        )
        torch.addmm(stem_bias, patches[mine], stem_t, out=x_SC[mine])
        for block, (p1, p2) in zip(blocks, packs(rows), strict=True):
            (w1, b1) = _parts(block.mlp_tokens.fc1)
            (w2, b2) = _parts(block.mlp_tokens.fc2)
            y_SC[mine] = block.norm1(x_SC[mine])
            meet()
            hidden = torch.addmm(b1[:, None], w1, y_SC[:, columns])
            torch.ops.aten.gelu_(hidden, approximate=block.mlp_tokens.act.approximate)
            x_SC[:, columns] += torch.addmm(b2[:, None], w2, hidden)
            meet()
            (w1, b1) = _parts(block.mlp_channels.fc1)
            (w2, b2) = _parts(block.mlp_channels.fc2)
            hidden = linear(block.norm2(x_SC[mine]), p1, w1, b1, rows)
            torch.ops.aten.gelu_(hidden, approximate=block.mlp_channels.act.approximate)
            x_SC[mine] += linear(hidden, p2, w2, b2, rows)

    def alone(image: Tensor) -> Tensor:
        x_SC, y_SC = torch.empty(2, S, C)
        share(image, x_SC, y_SC, 0, 1, lambda: None)
        return x_SC

    def together(image: Tensor) -> Tensor:
        x_SC, y_SC = torch.empty(2, S, C)
        barrier = threading.Barrier(threads)

        @torch.inference_mode()
        def work(part: int) -> None:
            try:
                share(image, x_SC, y_SC, part, threads, barrier.wait)
            except BaseException:
                barrier.abort()  # or the others would wait for ever
                raise

        list(pool.map(work, range(threads)))
        return x_SC

    @torch.inference_mode()
    def several(images: Tensor) -> Tensor:
        if S < _LEAST_ROWS:
            return model.forward_features(images)
        return model.norm(torch.stack([alone(image) for image in images]))

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        model._check(images)
        if threads == 1 or len(images) == 0:
            return model.forward_head(
                several(images) if len(images) else images.new_empty(0, S, C)
            )
        with (
            lock,
            cpu_threads(1),
        ):  # MKL's number is one for the whole process, torch's is each thread's own
            if len(images) == 1:
                return model.forward_head(model.norm(together(images[0])[None]))
            return model.forward_head(
                torch.cat(list(pool.map(several, torch.chunk(images, threads))))
            )

    return run


def _parts(layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    return layer.weight.detach(), cast(Tensor, layer.bias).detach()
