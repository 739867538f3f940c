"""The network that every family shares: stem, blocks, norm, mean over tokens, head.

It is called isotropic because all its blocks see tokens of the same width; only a
pyramid (token_mixing.py) changes their number. Axes as in mixer.py, and K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import plain_numbers
from ..errors import UserError, unknown
from .base import Block, NetworkConfig, Tap, class_count
from .layers import PatchEmbed, drop_path_rates, is_traced, lecun_normal_


class IsotropicMlp(nn.Module):
    """Map images (B, in_channels, H, W) to logits (B, K), or to pooled features (B, C).

    The configuration says of which family the blocks are, and whether there is a head.

    Attributes:
        config: The architecture.
        grad_checkpointing: Whether blocks are computed again in the backward pass.
    """

    def __init__(self, config: NetworkConfig) -> None:
        """Build the network with fresh weights, drawn from torch's global generator.

        Args:
            config: The architecture.
        """
        super().__init__()
        self.config = config
        self.grad_checkpointing = False
        self.stem = PatchEmbed(config.in_channels, config.hidden_dim, config.patch_size)
        rates = drop_path_rates(
            config.drop_path_rule, config.drop_path, config.num_blocks
        )
        self.blocks = nn.ModuleList(
            config.block(i, rate) for i, rate in enumerate(rates)
        )
        self.norm = config.last_norm()
        self.head = _new_head(config)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the paper's code does.

        Kernels are lecun-normal, biases zero and the head zero. A block then changes
        what its family begins otherwise: ResMLP, gMLP and gMixer begin as in timm.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                lecun_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.reset_parameters()

    def forward_features(
        self,
        image: Float[Tensor, "B in_channels H W"],
        draws_BL2: Float[Tensor, "B L 2"] | None = None,
    ) -> Float[Tensor, "B S C"]:
        """Return the tokens after the final norm.

        Args:
            image: Normalised pixels.
            draws_BL2: Uniform numbers in [0, 1) for stochastic depth, by sample, block
                and branch; without them torch's generator draws.

        Raises:
            UserError: The image has another size or number of channels.
        """
        self._check(image)
        return self.forward_tokens(self.stem(image), draws_BL2)

    def forward_tokens(
        self,
        x_BSC: Float[Tensor, "B S C"],
        draws_BL2: Float[Tensor, "B L 2"] | None = None,
    ) -> Float[Tensor, "B S C"]:
        """Return the tokens after the blocks and the final norm.

        Args:
            x_BSC: The tokens that enter the first block.
            draws_BL2: As for `forward_features`.
        """
        if is_traced(draws_BL2):
            # torch.fx traces every argument: its graphs draw by themselves.
            draws_BL2 = None
        for i, block in enumerate(self.blocks):
            draws_B2 = None if draws_BL2 is None else draws_BL2[:, i]
            if self.grad_checkpointing and self.training:
                x_BSC = checkpoint(block, x_BSC, draws_B2, use_reentrant=False)
            else:
                x_BSC = block(x_BSC, draws_B2)
        return self.norm(x_BSC)

    def forward_head(
        self, x_BSC: Float[Tensor, "B S C"], pre_logits: bool = False
    ) -> Float[Tensor, "B _"]:
        """Return the classifier's answer to the mean over the tokens.

        Args:
            x_BSC: From `forward_features`.
            pre_logits: Leave the classifier out and return the mean (B, C).
        """
        pooled_BC = x_BSC.mean(dim=1)
        return pooled_BC if pre_logits else self.head(pooled_BC)

    def forward(
        self,
        image: Float[Tensor, "B in_channels H W"],
        draws_BL2: Float[Tensor, "B L 2"] | None = None,
    ) -> Float[Tensor, "B _"]:
        """Return logits (B, K), or pooled features (B, C) if there is no head.

        Args:
            image: As for `forward_features`.
            draws_BL2: As for `forward_features`.
        """
        return self.forward_head(self.forward_features(image, draws_BL2))

    def features(self, image: Float[Tensor, "B in_channels H W"]) -> dict[str, Tensor]:
        """Return every intermediate by name, in order of computation.

        Args:
            image: As for `forward_features`.

        Returns:
            `stem`; for each block its branches before their skip connections
            (`blocks.i.mlp_tokens` and `blocks.i.mlp_channels` in a Mixer) and
            `blocks.i`; `norm`, all (B, S, C); `pre_logits` (B, C); `logits` (B, K).
        """
        self._check(image)
        out: dict[str, Tensor] = {}
        x_BSC = out["stem"] = self.stem(image)
        for i, block in enumerate(self.blocks):
            x_BSC = block(x_BSC, tap=_into(out, f"blocks.{i}."))
            out[f"blocks.{i}"] = x_BSC
        out["norm"] = self.norm(x_BSC)
        out["pre_logits"] = self.forward_head(out["norm"], pre_logits=True)
        out["logits"] = self.head(out["pre_logits"])
        return out

    def forward_intermediates(
        self,
        image: Float[Tensor, "B in_channels H W"],
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return what blocks give, as feature maps; the function of timm's models.

        Args:
            image: As for `forward_features`.
            indices: Of the blocks, from 0; below 0 from the end. A number n stands for
                the last n, None for all.
            norm: Apply the final norm to each of them.
            stop_early: Compute no further than the last block that is wanted.
            output_fmt: "NCHW" (B, C, rows, columns), or "NLC" (B, S, C).
            intermediates_only: Return the feature maps alone.

        Returns:
            The feature maps in order of computation; before them what
            `forward_features` returns (up to where it stopped), unless they are asked
            for alone.

        Raises:
            UserError: There is no such block or format, or the tokens of a pyramid are
                no grid.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise unknown("output format", str(output_fmt), ("NCHW", "NLC"))
        wanted = self._wanted(indices)
        self._check(image)
        x_BSC = self.stem(image)
        found = []
        for i, block in enumerate(self.blocks):
            if stop_early and i > max(wanted, default=-1):
                break
            x_BSC = block(x_BSC)
            if i in wanted:
                taken = self.norm(x_BSC) if norm else x_BSC
                found.append(self._as_map(taken) if output_fmt == "NCHW" else taken)
        return found if intermediates_only else (self.norm(x_BSC), found)

    def _wanted(self, indices: int | Sequence[int] | None) -> set[int]:
        """Return the numbers of blocks that indices in timm's manner stand for."""
        count = len(self.blocks)
        given = range(count) if indices is None else plain_numbers(indices)
        if isinstance(given, int):
            if not 1 <= given <= count:
                raise UserError(
                    f"this network has {count} blocks: there are no last {given}"
                )
            given = range(count - given, count)
        for i in given:
            if not -count <= i < count:
                raise UserError(
                    f"this network has {count} blocks: there is none of number {i}"
                )
        return {i % count for i in given}

    def _as_map(self, x_BSC: Tensor) -> Tensor:
        rows, columns = self.config.grid
        if not is_traced(x_BSC) and x_BSC.shape[1] != rows * columns:
            raise UserError(
                f"{x_BSC.shape[1]} tokens are no grid of {rows} x {columns}: ask for "
                'output_fmt="NLC"'
            )
        x_BCS = x_BSC.transpose(1, 2)
        return x_BCS.reshape(x_BCS.shape[0], -1, rows, columns)

    @property
    def num_features(self) -> int:
        """C, the width of what `forward_head(..., pre_logits=True)` gives."""
        return self.config.hidden_dim

    @property
    def num_classes(self) -> int:
        """K, 0 without a head; of another head that somebody put there, its own."""
        if isinstance(self.head, nn.Linear):
            return self.head.out_features
        return 0 if isinstance(self.head, nn.Identity) else self.config.num_classes

    def get_classifier(self) -> nn.Module:
        """Return the head: `nn.Linear`, or `nn.Identity` without classes."""
        return self.head

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        """Replace the head by a new one of zeros, as for fine-tuning.

        Labels of the old classes do not fit the new ones: give a checkpoint new ones.

        Args:
            num_classes: Of the new head; 0 removes it.
            global_pool: As in timm; these networks have "avg" only.

        Raises:
            UserError: It is no number of classes, or another pooling.
        """
        if global_pool not in (None, "avg"):
            raise UserError(
                f"global_pool is {global_pool!r}: these networks pool by the mean (avg)"
            )
        reference = self.stem.proj.weight
        count = class_count(num_classes)
        self.config = dataclasses.replace(self.config, num_classes=count)
        head = _new_head(self.config)
        self.head = head.to(device=reference.device, dtype=reference.dtype)
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping intermediates."""
        self.grad_checkpointing = enable

    def _check(self, image: Tensor) -> None:
        check_images(self.config, image)


def check_images(config: NetworkConfig, image: Tensor) -> None:
    """Refuse images of another size or number of channels than a network takes.

    Args:
        config: The architecture.
        image: What came.

    Raises:
        UserError: They are not (B, in_channels, H, W).
    """
    # While torch.fx traces, there is no shape yet.
    if is_traced(image):
        return
    expected = (config.in_channels, *config.image_size)
    if image.ndim != 4 or tuple(image.shape[1:]) != expected:
        sides = ", ".join(map(str, expected))
        raise UserError(
            f"this model takes images of shape (batch, {sides}), "
            f"got {tuple(image.shape)}; resize the images, or create the model with "
            "their image_size and in_channels"
        )


def _into(out: dict[str, Tensor], prefix: str) -> Tap:
    """Return a tap that notes each tensor in `out` and passes it on."""

    def tap(name: str, tensor: Tensor) -> Tensor:
        out[prefix + name] = tensor
        return tensor

    return tap


def _new_head(config: NetworkConfig) -> nn.Module:
    if config.num_classes == 0:
        return nn.Identity()
    return nn.Linear(config.hidden_dim, config.num_classes)
