"""What the paper and its readers say a Mixer is, as equations between networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlp_mixer.errors import UserError
from mlp_mixer.models import MixerConfig, MlpMixer, cost, create_model
from mlp_mixer.models.as_cnn import as_cnn

CONFIG = {
    "patch_size": 4,
    "num_blocks": 2,
    "hidden_dim": 10,
    "tokens_mlp_dim": 7,
    "channels_mlp_dim": 9,
}


def mixer(**fields: Any) -> MlpMixer:
    """6 tokens in a grid of 2 x 3, every parameter random, in double precision."""
    model = (
        MlpMixer(
            MixerConfig(**CONFIG | {"image_size": (8, 12), "num_classes": 5} | fields)
        )
        .double()
        .eval()
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model


def images(batch: int = 3) -> Tensor:
    return torch.randn(
        batch, 3, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


# Fig. 4: one fixed permutation of the patches, and one of the pixels inside each patch


def shuffled(image: Tensor, patches: Tensor, pixels: Tensor) -> Tensor:
    """New patch s is old patch `patches[s]`, and its pixel p the old one's pixel
    `pixels[p]`.
    """
    columns = F.unfold(image, 4, stride=4).unflatten(1, (3, 16))[:, :, pixels][
        ..., patches
    ]
    return F.fold(columns.flatten(1, 2), image.shape[2:], 4, stride=4)


def adapted(model: MlpMixer, patches: Tensor, pixels: Tensor) -> MlpMixer:
    twin = MlpMixer(model.config).double().eval()
    state = dict(model.state_dict())
    kernel = state["stem.proj.weight"]
    state["stem.proj.weight"] = kernel.flatten(2)[:, :, pixels].view_as(kernel)
    for i in range(model.config.num_blocks):
        tokens = f"blocks.{i}.mlp_tokens"
        state[f"{tokens}.fc1.weight"] = state[f"{tokens}.fc1.weight"][:, patches]
        state[f"{tokens}.fc2.weight"] = state[f"{tokens}.fc2.weight"][patches]
        state[f"{tokens}.fc2.bias"] = state[f"{tokens}.fc2.bias"][patches]
    twin.load_state_dict(state)
    return twin


@pytest.mark.parametrize("final_norm", [True, False])
def test_patches_and_pixels_may_be_shuffled_if_the_weights_are(
    final_norm: bool,
) -> None:
    model = mixer(final_norm=final_norm)
    generator = torch.Generator().manual_seed(3)
    patches = torch.randperm(6, generator=generator)
    pixels = torch.randperm(16, generator=generator)
    twin = adapted(model, patches, pixels)
    image = images()
    other = shuffled(image, patches, pixels)
    assert not torch.allclose(other, image)
    torch.testing.assert_close(twin(other), model(image), rtol=0, atol=1e-12)
    # Token by token too, where the bias b2 is seen that a norm and a mean would hide.
    expected = model.forward_features(image)[:, patches]
    torch.testing.assert_close(
        twin.forward_features(other), expected, rtol=0, atol=1e-12
    )
    assert (
        model(other) - model(image)
    ).abs().max() > 0.01  # a trained network itself is not invariant


def test_training_does_not_see_the_shuffle_either() -> None:
    """The same run with both shuffled ends with the same logits: Fig. 4's two equal
    curves.
    """
    patches = torch.randperm(6)
    pixels = torch.randperm(16)
    model = mixer().train()
    twin = adapted(model, patches, pixels).train()
    for network, image in (
        (model, images()),
        (twin, shuffled(images(), patches, pixels)),
    ):
        optimiser = torch.optim.AdamW(network.parameters(), lr=0.01)
        for _ in range(5):
            optimiser.zero_grad()
            F.cross_entropy(network(image), torch.tensor([0, 1, 2])).backward()
            optimiser.step()
    moved = (model(images()) - mixer()(images())).abs().max()
    assert moved > 0.1
    torch.testing.assert_close(
        twin(shuffled(images(), patches, pixels)), model(images()), rtol=0, atol=1e-6
    )


# Section 2: a Mixer is a convolutional network of a special kind


@pytest.mark.parametrize(
    "fields", [{}, {"final_norm": False}, {"gelu": "erf"}, {"num_classes": 0}], ids=str
)
def test_a_mixer_is_a_cnn_with_whole_image_kernels(fields: dict[str, Any]) -> None:
    model = mixer(**fields)
    cnn = as_cnn(model)
    torch.testing.assert_close(cnn(images()), model(images()), rtol=0, atol=1e-12)
    gradients = [
        torch.autograd.grad(net(images()).square().sum(), list(model.parameters()))
        for net in (cnn, model)
    ]
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


def test_only_a_mixer_is_converted() -> None:
    with pytest.raises(UserError, match="as_cnn knows Mixers only, got GMlp"):
        as_cnn(create_model("gmlp_ti16", image_size=32))


# "Understanding MLP-Mixer as a wide and sparse MLP" (arXiv 2306.01470)


def test_each_branch_is_a_wide_mlp_of_kronecker_products() -> None:
    """On vec(X), of length S C: W (x) I for the tokens, I (x) V for the channels."""
    (block, _) = mixer().blocks
    S = 6
    C = 10
    x_SC = torch.randn(S, C, dtype=torch.float64)

    def wide(v: Tensor, fc1: Tensor, b1: Tensor, fc2: Tensor, b2: Tensor) -> Tensor:
        return fc2 @ block.mlp_tokens.act(fc1 @ v + b1) + b2

    def eye(n: int) -> Tensor:
        return torch.eye(n, dtype=torch.float64)

    tokens = block.mlp_tokens
    channels = block.mlp_channels
    v = wide(
        block.norm1(x_SC).flatten(),
        torch.kron(tokens.fc1.weight, eye(C)),
        tokens.fc1.bias.repeat_interleave(C),
        torch.kron(tokens.fc2.weight, eye(C)),
        tokens.fc2.bias.repeat_interleave(C),
    )
    x_SC = x_SC + v.view(S, C)
    torch.testing.assert_close(
        v, block.mix_tokens(x_SC[None] - v.view(1, S, C)).flatten(), rtol=0, atol=1e-12
    )
    v = wide(
        block.norm2(x_SC).flatten(),
        torch.kron(eye(S), channels.fc1.weight),
        channels.fc1.bias.repeat(S),
        torch.kron(eye(S), channels.fc2.weight),
        channels.fc2.bias.repeat(S),
    )
    torch.testing.assert_close(
        v, block.mix_channels(x_SC[None]).flatten(), rtol=0, atol=1e-12
    )


# "Linear in the number of patches": at a fixed D_S, where attention and the linear
# layers of gMLP and ResMLP are not


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("mixer_s16", True),
        ("gmixer_12", True),
        ("grouped_s32", True),
        ("resmlp_12", False),
        ("gmlp_ti16", False),
    ],
)
def test_cost_is_linear_in_the_patches(name: str, linear: bool) -> None:
    def body(*size: int) -> int:
        counted = cost(name, size)
        return counted.macs - counted.parts[-1].macs

    once = body(224, 224)
    twice = body(448, 224)
    four_times = body(448, 448)
    assert (twice == 2 * once) == (four_times == 4 * once) == linear
    assert twice >= 2 * once


def test_the_bias_b2_of_token_mixing_does_not_reach_the_logits_through_a_norm_over_channels_alone() -> (
    None
):
    """It shifts all channels of a token alike, which the norms subtract; without the
    last norm it is seen.
    """
    for final_norm in (True, False):
        model = mixer(final_norm=final_norm, num_blocks=1)
        before = model(images())
        with torch.no_grad():
            model.blocks[0].mlp_tokens.fc2.bias += 3
        assert torch.allclose(model(images()), before, rtol=0, atol=1e-4) == final_norm
