"""Inference with the tokens outermost, in which both halves of a block are plain products.

In the usual layout (B, S, C) token mixing multiplies each image's transpose by the
weights: a batch of small products, with transposes around them. In (S, B, C) it is one
product of two matrices over all images and channels, and channel mixing stays one over
all tokens and images:

    token mixing      (B C, S) (S, D_S)    gelu    (S, D_S) (D_S, B C)
    channel mixing    (S B, C) (C, D_C)    gelu    (S B, D_C) (D_C, C)

Nothing is transposed: BLAS reads either side of a matrix first. Bias and GELU ride on
the first product of each pair, and the skip connection on the second one, which adds
to x where it lies. What is left between them are two norms a block.

The biases of the second products are never added to x:

- That of token mixing adds one number to all channels of a token, and the norms after
  it subtract it again. (Its gradient is zero but for rounding.)
- That of channel mixing adds the same vector to all tokens of all images. The norms
  after it add the sum of those vectors to what they read.

Axes as in `models.mixer`; SP is S padded with zeros to a multiple of 8, since a row of
49 or 196 numbers of two bytes is not aligned for the fastest loads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..choices import Gelu
from ..models.as_built import plain_state
from ..models.families import need_mixer
from ..models.isotropic import IsotropicMlp, check_images
from ..models.mixer import MixerConfig

# Numbers; of two bytes each they fill the 16 bytes of one load.
_ALIGNMENT = 8


class TokensFirst(nn.Module):
    """Compute a Mixer in inference with the tokens outermost.

    It answers as the network does, within rounding, in the dtype and on the device of
    its weights, and knows no training: stochastic depth and dropout are left out. It is
    a snapshot: convert again after the weights have changed. It can be compiled.

    Args:
        model: A Mixer, perhaps wrapped; it is not changed, and shares most of its
            weights' memory.

    Attributes:
        config: The architecture.

    Raises:
        UserError: The network is of another family, or not what its configuration
            builds.
    """

    stem_weight: Tensor
    stem_bias: Tensor
    carried: Tensor
    left_out: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    head_weight: Tensor | None
    head_bias: Tensor | None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        config, tensors = plain_state(model)
        self.config = need_mixer(config, "TokensFirst")
        tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        self.register_buffer("stem_weight", tensors["stem.proj.weight"].flatten(1))
        self.register_buffer("stem_bias", tensors["stem.proj.bias"])
        # What the norms must add to x. In float64, since dozens of blocks add to it.
        dtype = self.stem_weight.dtype
        carried = tensors["blocks.0.norm1.bias"].new_zeros((), dtype=torch.float64)
        left_out = carried
        self.blocks = nn.ModuleList()
        for i in range(self.config.num_blocks):
            prefix = f"blocks.{i}."
            names = [name for name in tensors if name.startswith(prefix)]
            own = {name.removeprefix(prefix): tensors[name] for name in names}
            before = carried.to(dtype) if i else None
            self.blocks.append(_Block(self.config, own, before))
            carried = carried + own["mlp_channels.fc2.bias"].double()
            left_out = left_out + own["mlp_tokens.fc2.bias"].double()
        self.register_buffer("carried", carried.to(dtype))
        last = self.config.final_norm
        # Without a last norm nothing subtracts what token mixing adds.
        self.register_buffer("left_out", None if last else left_out.to(dtype))
        self.register_buffer("norm_weight", tensors["norm.weight"] if last else None)
        self.register_buffer("norm_bias", tensors["norm.bias"] if last else None)
        self.register_buffer("head_weight", tensors.get("head.weight"))
        self.register_buffer("head_bias", tensors.get("head.bias"))

    def forward(
        self, image: Float[Tensor, "B in_channels H W"]
    ) -> Float[Tensor, "B _"]:
        """Return logits (B, K), or pooled features (B, C) if there is no head.

        Args:
            image: Normalised pixels, in the dtype of the weights.

        Raises:
            UserError: The image has another size or number of channels.
        """
        pooled_BC = self.forward_features(image).mean(0)
        if self.head_weight is None:
            return pooled_BC
        return F.linear(pooled_BC, self.head_weight, self.head_bias)

    def forward_features(
        self, image: Float[Tensor, "B in_channels H W"]
    ) -> Float[Tensor, "S B C"]:
        """Return the tokens after the final norm, in this layout.

        Args:
            image: As for `forward`.
        """
        check_images(self.config, image)
        return self.forward_tokens(self._stem(image))

    def forward_tokens(self, x_SBC: Float[Tensor, "S B C"]) -> Float[Tensor, "S B C"]:
        """Return the tokens after the blocks and the final norm.

        Args:
            x_SBC: The tokens that enter the first block, contiguous. They are
                overwritten.
        """
        for block in self.blocks:
            block(x_SBC)
        x_SBC = x_SBC + self.carried
        if self.left_out is not None:
            return x_SBC + self.left_out[:, None, None]
        width = (self.config.hidden_dim,)
        eps = self.config.norm_eps
        return F.layer_norm(x_SBC, width, self.norm_weight, self.norm_bias, eps)

    def _stem(self, image: Tensor) -> Tensor:
        """Cut images into patches, and map them to tokens (S, B, C)."""
        rows, columns = self.config.grid
        P = self.config.patch_size
        channels = self.config.in_channels
        B = len(image)
        tiles = image.reshape(B, channels, rows, P, columns, P)
        # As the kernel of the stem is laid: channels, rows and columns of a patch.
        tiles = tiles.permute(2, 4, 0, 1, 3, 5)
        patches = tiles.reshape(rows * columns * B, channels * P * P)
        tokens = F.linear(patches, self.stem_weight, self.stem_bias)
        return tokens.view(rows * columns, B, self.config.hidden_dim)


class _Block(nn.Module):
    """A block in this layout.

    Args:
        config: The architecture.
        tensors: Of the plain block, by its names.
        carried: (C), what earlier blocks have left out of x; None for nothing.
    """

    mlp_tokens_fc1_weight: Tensor
    carried: Tensor | None
    norm1_weight: Tensor
    norm1_bias: Tensor
    mlp_tokens_fc1_bias: Tensor
    mlp_tokens_fc2_weight: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    mlp_channels_fc1_weight: Tensor
    mlp_channels_fc1_bias: Tensor
    mlp_channels_fc2_weight: Tensor

    def __init__(
        self, config: MixerConfig, tensors: dict[str, Tensor], carried: Tensor | None
    ) -> None:
        super().__init__()
        self.gelu = config.gelu
        self.eps = config.norm_eps
        self.padding = -config.num_patches % _ALIGNMENT
        self.register_buffer("carried", carried)
        for name, tensor in tensors.items():
            # (Padding by nothing would copy.)
            if name == "mlp_tokens.fc1.weight" and self.padding:
                tensor = F.pad(tensor, (0, self.padding))
            # Those biases are in what is carried, or left out.
            if not name.endswith("fc2.bias"):
                self.register_buffer(name.replace(".", "_"), tensor)

    def forward(self, x_SBC: Float[Tensor, "S B C"]) -> None:
        """Add both branches to x, where it lies."""
        S, B, C = x_SBC.shape
        normed = self._norm(x_SBC, self.norm1_weight, self.norm1_bias)
        if self.padding:
            # A compiler lets the norm write into the padded tensor.
            normed = torch.cat([normed, normed.new_zeros(self.padding, B, C)])
        columns = normed.view(S + self.padding, B * C).t()
        weight = self.mlp_tokens_fc1_weight
        hidden = gelu_product(columns, weight, self.mlp_tokens_fc1_bias, self.gelu)
        add_product_(x_SBC, self.mlp_tokens_fc2_weight, hidden.t())

        normed = self._norm(x_SBC, self.norm2_weight, self.norm2_bias)
        rows = normed.view(S * B, C)
        weight = self.mlp_channels_fc1_weight
        hidden = gelu_product(rows, weight, self.mlp_channels_fc1_bias, self.gelu)
        add_product_(x_SBC, hidden, self.mlp_channels_fc2_weight.t())

    def _norm(self, x_SBC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.carried is not None:
            x_SBC = x_SBC + self.carried
        return F.layer_norm(x_SBC, weight.shape, weight, bias, self.eps)


def gelu_product(
    x: Float[Tensor, "M K"],
    weight: Float[Tensor, "N K"],
    bias: Float[Tensor, " N"],
    gelu: Gelu,
) -> Float[Tensor, "M N"]:
    """Return gelu(x W' + b), in one operator where it computes the right GELU.

    Args:
        x: The rows, in any layout.
        weight: As in `nn.Linear`.
        bias: As in `nn.Linear`.
        gelu: The form of the GELU.
    """
    if is_fused_gelu(gelu, x.dtype, x.device):
        return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)
    approximate = "tanh" if gelu == "tanh" else "none"
    return F.gelu(torch.addmm(bias, x, weight.t()), approximate=approximate)


def is_fused_gelu(gelu: Gelu, dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether torch's product with a GELU computes this form of it.

    On CUDA it is cuBLASLt's, which is the tanh form; on the CPU it is the erf form. In
    bf16 the tanh form stands for both: they differ by 4.7e-4 at most, where bf16's own
    rounding is 7.8e-3, and by 2.0e-4 of the signal in all, a ninth of that rounding.

    Args:
        gelu: The form that is wanted.
        dtype: The dtype of the product.
        device: Where it is computed.
    """
    if device.type == "cuda":
        return gelu == "tanh" or dtype == torch.bfloat16
    return device.type == "cpu" and gelu == "erf"


# An operator of ours, since a compiler would write torch's own into a new tensor, and
# copy x there first: two passes over the tokens for each product.
@torch.library.custom_op("mlp_mixer::add_product_", mutates_args=("x",))
def add_product_(x: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the product of two matrices to x, where it lies.

    Args:
        x: Contiguous, of any shape with as many numbers as the product.
        left: (M, K), in any layout.
        right: (K, N), in any layout.
    """
    x.view(left.shape[0], right.shape[1]).addmm_(left, right)


@add_product_.register_fake
def _(x: Tensor, left: Tensor, right: Tensor) -> None:
    return None


def why_not_tokens_first(model: IsotropicMlp) -> str | None:
    """Return why `TokensFirst(model)` cannot be made, in words; None if it can.

    Args:
        model: The network.
    """
    if not isinstance(model.config, MixerConfig):
        return "its blocks are not those of a Mixer"
    return None
