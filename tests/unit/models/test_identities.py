"""What the paper and its readers say a Mixer is, as equations between networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_mixer.errors import UserError
from mlp_mixer.models import MixerConfig, MlpMixer, cost, create_model
from mlp_mixer.models.as_cnn import as_cnn

CONFIG = {
    "patch_size": 4,
    "num_blocks": 2,
    "hidden_dim": 10,
    "tokens_mlp_dim": 7,
    "channels_mlp_dim": 9,
    "image_size": (8, 12),
    "num_classes": 5,
}


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """In double precision: what is the same in exact numbers."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def mixer(**fields: Any) -> MlpMixer:
    """6 tokens in a grid of 2 x 3, every parameter random, in double precision."""
    model = MlpMixer(MixerConfig(**CONFIG | fields)).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model


def images(batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 8, 12, dtype=torch.float64, generator=generator)


# Fig. 4: one fixed permutation of the patches, and one of the pixels inside each patch


def shuffled(image: Tensor, patches: Tensor, pixels: Tensor) -> Tensor:
    """New patch s is old patch `patches[s]`; its pixel p is pixel `pixels[p]` there."""
    columns = F.unfold(image, 4, stride=4).unflatten(1, (3, 16))
    columns = columns[:, :, pixels][..., patches].flatten(1, 2)
    return F.fold(columns, image.shape[2:], 4, stride=4)


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
    assert_same(twin(other), model(image))
    # Token by token too, where the bias b2 is seen that a norm and a mean would hide.
    expected = model.forward_features(image)[:, patches]
    assert_same(twin.forward_features(other), expected)
    # The network itself is not invariant.
    assert (model(other) - model(image)).abs().max() > 0.01


def trained(network: MlpMixer, image: Tensor) -> MlpMixer:
    """After five steps towards three labels."""
    labels = torch.tensor([0, 1, 2])
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        F.cross_entropy(network(image), labels).backward()
        optimiser.step()
    return network


def test_training_does_not_see_the_shuffle_either() -> None:
    """The same run with both shuffled ends with the same logits.

    These are the two equal curves of Fig. 4.
    """
    patches = torch.randperm(6)
    pixels = torch.randperm(16)
    image = images()
    other = shuffled(image, patches, pixels)
    model = mixer().train()
    twin = adapted(model, patches, pixels).train()
    trained(model, image)
    trained(twin, other)
    moved = (model(image) - mixer()(image)).abs().max()
    assert moved > 0.1
    torch.testing.assert_close(twin(other), model(image), rtol=0, atol=1e-6)


# Section 2: a Mixer is a convolutional network of a special kind


OPTIONS = [{}, {"final_norm": False}, {"gelu": "erf"}, {"num_classes": 0}]


def gradients(network: nn.Module, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(network(images()).square().sum(), parameters)


@pytest.mark.parametrize("fields", OPTIONS, ids=str)
def test_a_mixer_is_a_cnn_with_whole_image_kernels(fields: dict[str, Any]) -> None:
    model = mixer(**fields)
    cnn = as_cnn(model)
    assert_same(cnn(images()), model(images()))
    parameters = list(model.parameters())
    ours = gradients(cnn, parameters)
    plain = gradients(model, parameters)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


def test_only_a_mixer_is_converted() -> None:
    with pytest.raises(UserError, match="as_cnn knows Mixers only, got GMlp"):
        as_cnn(create_model("gmlp_ti16", image_size=32))


# "Understanding MLP-Mixer as a wide and sparse MLP" (arXiv 2306.01470)


def test_each_branch_is_a_wide_mlp_of_kronecker_products() -> None:
    """On vec(X), of length S C: W (x) I for the tokens, I (x) V for the channels."""
    block, _ = mixer().blocks
    S = 6
    C = 10
    x_SC = torch.randn(S, C, dtype=torch.float64)

    act = block.mlp_tokens.act

    def eye(n: int) -> Tensor:
        return torch.eye(n, dtype=torch.float64)

    tokens = block.mlp_tokens
    W1 = torch.kron(tokens.fc1.weight, eye(C))
    W2 = torch.kron(tokens.fc2.weight, eye(C))
    b1 = tokens.fc1.bias.repeat_interleave(C)
    b2 = tokens.fc2.bias.repeat_interleave(C)
    v = W2 @ act(W1 @ block.norm1(x_SC).flatten() + b1) + b2
    assert_same(v, block.mix_tokens(x_SC[None]).flatten())

    channels = block.mlp_channels
    V1 = torch.kron(eye(S), channels.fc1.weight)
    V2 = torch.kron(eye(S), channels.fc2.weight)
    c1 = channels.fc1.bias.repeat(S)
    c2 = channels.fc2.bias.repeat(S)
    x_SC = x_SC + v.view(S, C)
    v = V2 @ act(V1 @ block.norm2(x_SC).flatten() + c1) + c2
    assert_same(v, block.mix_channels(x_SC[None]).flatten())


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


@pytest.mark.parametrize("final_norm", [True, False])
def test_only_without_the_last_norm_do_logits_see_the_bias_b2(final_norm: bool) -> None:
    """It shifts all channels of a token alike, which the norms subtract."""
    model = mixer(final_norm=final_norm, num_blocks=1)
    before = model(images())
    with torch.no_grad():
        model.blocks[0].mlp_tokens.fc2.bias += 3
    unseen = torch.allclose(model(images()), before, rtol=0, atol=1e-4)
    assert unseen == final_norm
