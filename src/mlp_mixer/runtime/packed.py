"""Run a Mixer on the CPU in fp32 with torch's own operators, arranged for speed.

Nothing is traced, compiled or installed. Three things differ from the plain module:

1. The weights of the channel MLPs are packed for MKL once, and not at every call.
2. Token mixing is W1 @ x with a bias for each row. The plain module transposes the
   tokens (S, C) to multiply from the right; from the left no memory is moved.
3. GELU works in place.

Threads do not share a product: they would wait for each other after every one, and
long on a busy machine. Of a batch, each thread takes whole images. Of a single image,
each takes some tokens in channel mixing and some channels in token mixing, which needs
two barriers per block instead of one per product.

Axes as in `models.mixer`.
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
from ..models.isotropic import IsotropicMlp
from ..models.mixer import MixerBlock, MixerConfig

# Multiply-accumulates of a channel MLP on one image. Below, the calls from Python cost
# more than is gained.
_LEAST_WORK = 2**25
# Tokens of an image. Below, a thread's images are better off in the plain module, whose
# products take all of them together.
_LEAST_ROWS = 128


def can_pack(model: IsotropicMlp) -> bool:
    """Return whether `packed(model)` is possible and pays.

    It needs fp32 on the CPU, a torch built with MKL, and a network not too small.

    Args:
        model: The network.
    """
    config = model.config
    if not isinstance(config, MixerConfig):
        return False
    weight = model.stem.proj.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return False
    channel_mlp = config.hidden_dim * config.channels_mlp_dim
    if 2 * config.num_patches * channel_mlp < _LEAST_WORK:
        return False
    return hasattr(torch.ops.mkl, "_mkl_linear")


def packed(model: IsotropicMlp) -> Callable[[Tensor], Tensor]:
    """Arrange a Mixer for speed on the CPU.

    Packed copies of the weights need as much memory again as the channel MLPs, once
    for batches and once for single images.

    Args:
        model: A Mixer in evaluation mode. Weights that change later are not seen.

    Returns:
        Images (B, in_channels, H, W) -> the answers of the module, up to rounding.
        Threads may share the call.

    Raises:
        UserError: The network is not a Mixer.
    """
    return _PackedMixer(model)


class _PackedMixer:
    """The call that `packed` returns, with its threads and its packed weights."""

    def __init__(self, model: IsotropicMlp) -> None:
        config = need_mixer(model.config, "packed")
        self.model = model
        self.S = config.num_patches
        self.C = config.hidden_dim
        self.P = config.patch_size
        self.grid = config.grid
        self.blocks = [cast(MixerBlock, block) for block in model.blocks]
        # The stem's convolution has no overlap, so it is a product of patches and its
        # kernel: with rows for patches it can be shared like channel mixing.
        stem, self.stem_bias = _parameters(model.stem.proj)
        self.stem_t = stem.flatten(1).t().contiguous()
        self.threads = min(torch.get_num_threads(), self.S, self.C)
        # One thread of MKL and OpenMP each: these threads are the parallelism.
        self.pool = ThreadPoolExecutor(
            self.threads, "mixer", torch.set_num_threads, (1,)
        )
        self.lock = threading.Lock()
        # A cache of the instance, and not of the class, which would keep every model.
        self.packs = functools.cache(self._pack)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Answer for images (B, in_channels, H, W)."""
        self.model._check(images)
        return self.model.forward_head(self._features(images))

    def _features(self, images: Tensor) -> Tensor:
        """Return the tokens after the final norm (B, S, C)."""
        if len(images) == 0:
            return images.new_empty(0, self.S, self.C)
        if self.threads == 1:
            return self._several(images)
        # MKL's number of threads belongs to the whole process (torch's to each
        # thread), so only one call at a time may set it.
        with self.lock, cpu_threads(1):
            if len(images) == 1:
                return self.model.norm(self._together(images[0])[None])
            shares = torch.chunk(images, self.threads)
            return torch.cat(list(self.pool.map(self._several, shares)))

    @torch.inference_mode()
    def _several(self, images: Tensor) -> Tensor:
        """Compute whole images in this thread."""
        if self.S < _LEAST_ROWS:
            return self.model.forward_features(images)
        return self.model.norm(torch.stack([self._alone(image) for image in images]))

    def _alone(self, image: Tensor) -> Tensor:
        """Compute one image in this thread: its only part, without a barrier."""
        x_SC, y_SC = torch.empty(2, self.S, self.C)
        self._share(image, x_SC, y_SC, 0, 1, lambda: None)
        return x_SC

    def _together(self, image: Tensor) -> Tensor:
        """Compute one image in all threads."""
        x_SC, y_SC = torch.empty(2, self.S, self.C)
        barrier = threading.Barrier(self.threads)

        @torch.inference_mode()
        def work(part: int) -> None:
            try:
                self._share(image, x_SC, y_SC, part, self.threads, barrier.wait)
            except BaseException:
                # Otherwise the other threads would wait for this one for ever.
                barrier.abort()
                raise

        list(self.pool.map(work, range(self.threads)))
        return x_SC

    def _share(
        self,
        image: Tensor,
        x_SC: Tensor,
        y_SC: Tensor,
        part: int,
        parts: int,
        wait: Callable[[], object],
    ) -> None:
        """Compute one thread's part of one image.

        Args:
            image: (in_channels, H, W).
            x_SC: The tokens of all threads; this one writes its part of them.
            y_SC: Room for the normalised tokens of all threads.
            part: Which part of the tokens and of the channels, from 0.
            parts: How many there are.
            wait: Returns when all threads have called it.
        """
        mine = _slice(self.S, part, parts)
        columns = _slice(self.C, part, parts)
        rows = mine.stop - mine.start
        patches = self._patches(image)
        torch.addmm(self.stem_bias, patches[mine], self.stem_t, out=x_SC[mine])
        for block, packs in zip(self.blocks, self.packs(rows), strict=True):
            y_SC[mine] = block.norm1(x_SC[mine])
            # Token mixing reads all rows of these columns, which others have written.
            wait()
            _mix_tokens(block, x_SC[:, columns], y_SC[:, columns])
            # Channel mixing reads all columns of these rows.
            wait()
            _mix_channels(block, x_SC[mine], packs)

    def _patches(self, image: Tensor) -> Tensor:
        """Cut an image into patches (S, in_channels P P), as the stem's kernel is laid."""
        height, width = self.grid
        tiles = image.reshape(-1, height, self.P, width, self.P)
        return tiles.permute(1, 3, 0, 2, 4).reshape(self.S, -1)

    def _pack(self, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Return the weights of each channel MLP as MKL wants them for so many rows."""
        pack = torch.ops.mkl._mkl_reorder_linear_weight
        packs = []
        for block in self.blocks:
            w1, _ = _parameters(block.mlp_channels.fc1)
            w2, _ = _parameters(block.mlp_channels.fc2)
            packs.append((pack(w1, rows), pack(w2, rows)))
        return packs


def _mix_tokens(block: MixerBlock, x_SC: Tensor, y_SC: Tensor) -> None:
    """Add the token branch of some channels to x, from the normalised y."""
    w1, b1 = _parameters(block.mlp_tokens.fc1)
    w2, b2 = _parameters(block.mlp_tokens.fc2)
    hidden = torch.addmm(b1[:, None], w1, y_SC)
    torch.ops.aten.gelu_(hidden, approximate=block.mlp_tokens.act.approximate)
    x_SC += torch.addmm(b2[:, None], w2, hidden)


def _mix_channels(
    block: MixerBlock, x_SC: Tensor, packs: tuple[Tensor, Tensor]
) -> None:
    """Add the channel branch of some tokens to x."""
    linear = torch.ops.mkl._mkl_linear
    w1, b1 = _parameters(block.mlp_channels.fc1)
    w2, b2 = _parameters(block.mlp_channels.fc2)
    # MKL takes the packed weight only for as many rows as it was packed for, and the
    # plain one otherwise.
    rows = len(x_SC)
    hidden = linear(block.norm2(x_SC), packs[0], w1, b1, rows)
    torch.ops.aten.gelu_(hidden, approximate=block.mlp_channels.act.approximate)
    x_SC += linear(hidden, packs[1], w2, b2, rows)


def _slice(n: int, part: int, parts: int) -> slice:
    """Return a part of n things; parts differ by one at most."""
    return slice(n * part // parts, n * (part + 1) // parts)


def _parameters(layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a layer, outside of autograd."""
    return layer.weight.detach(), cast(Tensor, layer.bias).detach()
