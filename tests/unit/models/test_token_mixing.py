"""App. A.1's token mixing, each written once more in the plainest way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlp_mixer.errors import UserError
from mlp_mixer.models import MixerConfig, MlpMixer, build_network, cost
from mlp_mixer.models.token_mixing import TokenMixingBlock, TokenMixingConfig, UntiedMlp

SIZES = {
    "patch_size": 4,
    "num_blocks": 2,
    "hidden_dim": 12,
    "tokens_mlp_dim": 5,
    "channels_mlp_dim": 20,
}
SMALL = SIZES | {"image_size": (8, 12), "num_classes": 3}  # 6 tokens


def block_of(**fields: Any) -> TokenMixingBlock:
    block = TokenMixingConfig(**SMALL | fields).block(0, 0.0)
    assert isinstance(block, TokenMixingBlock)
    with torch.no_grad():
        for parameter in block.parameters():
            generator = torch.Generator().manual_seed(parameter.numel())
            parameter.normal_(std=0.5, generator=generator)
    return block.double()


def random_tokens(batch: int) -> Tensor:
    return torch.randn(batch, 6, 12, dtype=torch.float64)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """In double precision: what is the same in exact numbers."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def token_mlp(block: TokenMixingBlock, m: int, M: int) -> tuple[Tensor, ...]:
    """The weights and biases that vector m of M meets."""
    mlp = block.mlp_tokens
    if not isinstance(mlp, UntiedMlp):
        return mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias
    N = len(mlp.weight1)
    n = m // (M // N)  # which of the N serves this vector
    bias1 = mlp.bias1.view(N, -1)
    bias2 = mlp.bias2.view(N, -1)
    return mlp.weight1[n], bias1[n], mlp.weight2[n], bias2[n]


def one_by_one(block: TokenMixingBlock, x_SC: Tensor, gelu: str) -> Tensor:
    """Every vector of concatenated columns by itself, through its own token MLP."""
    x_SC = block.norm1(x_SC)
    if not isinstance(block.views, torch.nn.Identity):
        x_SC = x_SC @ block.views.weight.T
    columns = []
    G = block.group
    M = x_SC.shape[1] // G
    for m in range(M):
        vector = torch.cat([x_SC[:, m * G + g] for g in range(G)])
        W1, b1, W2, b2 = token_mlp(block, m, M)
        out = W2 @ F.gelu(W1 @ vector + b1, approximate=gelu) + b2
        columns += list(out.view(G, -1))
    return torch.stack(columns, dim=1)


EVERYTHING = {"group": 2, "token_mlps": 6, "views": True, "pyramid": (4, 1)}


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, 6),
        ({"gelu": "erf"}, 6),
        ({"token_mlps": 12}, 6),  # untied
        ({"token_mlps": 12, "gelu": "erf"}, 6),
        ({"token_mlps": 3}, 6),  # four neighbouring channels share one
        ({"group": 3}, 6),
        ({"group": 3, "views": True}, 6),
        ({"group": 2, "token_mlps": 3}, 6),
        ({"pyramid": (4, 4)}, 4),
        (EVERYTHING, 4),
    ],
    ids=str,
)
def test_equals_one_vector_at_a_time(fields: dict[str, Any], tokens: int) -> None:
    block = block_of(**fields)
    x_BSC = random_tokens(2)
    gelu = "none" if fields.get("gelu") == "erf" else "tanh"
    singly = [one_by_one(block, x_SC, gelu) for x_SC in x_BSC]
    expected = torch.stack(singly)
    assert expected.shape == (2, tokens, 12)
    assert_same(block.mix_tokens(x_BSC), expected)
    # No skip connection goes around fewer tokens.
    mixed = x_BSC + expected if tokens == 6 else expected
    assert_same(block(x_BSC), mixed + block.mlp_channels(block.norm2(mixed)))


def test_the_defaults_are_the_paper_s_mixer() -> None:
    torch.manual_seed(1)
    ours = build_network(TokenMixingConfig(**SMALL))
    torch.manual_seed(1)
    plain = MlpMixer(MixerConfig(**SMALL))
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(plain.state_dict(), strict=True)
    image = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    assert_same(ours.double()(image), plain.double()(image))


def test_equal_token_mlps_are_one() -> None:
    """The standard tied MLP is where all C of the untied agree."""
    tied = block_of()
    untied = block_of(token_mlps=12)
    state = untied.state_dict()
    for name, tensor in tied.state_dict().items():
        if "mlp_tokens" not in name:
            state[name] = tensor
    one = tied.mlp_tokens
    state["mlp_tokens.weight1"] = one.fc1.weight.expand(12, -1, -1)
    state["mlp_tokens.weight2"] = one.fc2.weight.expand(12, -1, -1)
    state["mlp_tokens.bias1"] = one.fc1.bias.repeat(12)
    state["mlp_tokens.bias2"] = one.fc2.bias.repeat(12)
    untied.load_state_dict(state)
    x_BSC = random_tokens(3)
    assert_same(untied(x_BSC), tied(x_BSC))


def test_untied_channels_mix_by_themselves_and_grouped_ones_together() -> None:
    """Column c reads itself; with groups its neighbours; with views every channel."""

    def read_by_column_0(**fields: Any) -> list[int]:
        block = block_of(**fields)
        block.norm1 = torch.nn.Identity()
        x_BSC = random_tokens(1)
        jacobian = torch.autograd.functional.jacobian(block.mix_tokens, x_BSC)
        # Of column 0 of the answer: by token, then by token and channel of x.
        influence = jacobian[0, :, 0, 0].abs().sum((0, 1))
        return influence.nonzero().flatten().tolist()

    assert read_by_column_0(token_mlps=12) == read_by_column_0() == [0]
    assert read_by_column_0(group=3) == [0, 1, 2]
    assert read_by_column_0(group=3, views=True) == list(range(12))


def test_each_of_several_token_mlps_begins_as_the_one_would() -> None:
    fields = {
        "token_mlps": 8,
        "hidden_dim": 16,
        "tokens_mlp_dim": 100,
        "image_size": (40, 40),
    }
    mlps = build_network(TokenMixingConfig(**SMALL | fields)).blocks[0].mlp_tokens
    assert isinstance(mlps, UntiedMlp)
    # Lecun-normal, by the 100 numbers that each output reads.
    for weight in (mlps.weight1, mlps.weight2):
        for one in weight:
            assert 0.095 < one.std() < 0.105
    assert not mlps.bias1.any()
    assert not mlps.bias2.any()


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({}, (6, 6)),
        ({"token_mlps": 12}, (6, 6)),
        ({"token_mlps": 4}, (6, 6)),
        ({"group": 3}, (6, 6)),
        ({"group": 4, "views": True}, (6, 6)),
        ({"group": 2, "token_mlps": 2, "pyramid": (4, 2)}, (4, 2)),
        ({"pyramid": (2,)}, (6, 2)),
    ],
    ids=str,
)
def test_parameters_and_multiplications_by_formula(
    fields: dict[str, Any], after: Any
) -> None:
    config = TokenMixingConfig(**SMALL | fields)
    N = config.token_mlps
    G = config.group
    S = 6
    C = 12
    D_S = 5
    D_C = 20
    K = 3
    values = 3 * 4 * 4
    views = C * C * config.views
    stem = values * C + C
    head = C * K + K
    params = stem + 2 * C + head
    macs = S * values * C + C * K
    before = S
    for T in after:
        token_mlp = G * before * D_S + D_S + D_S * G * T + G * T
        channel_mlp = 2 * C * D_C + D_C + C
        norms = 4 * C
        params += N * token_mlp + views + channel_mlp + norms
        macs += C // G * D_S * G * (before + T)
        macs += before * views
        macs += T * 2 * C * D_C
        before = T
    counted = cost(config)
    assert (counted.params, counted.macs) == (params, macs)
    out = build_network(config).features(torch.randn(2, 3, 8, 12))
    assert (out["blocks.0"].shape[1], out["blocks.1"].shape[1]) == after


def test_a_pyramid_saves_and_untying_costs_no_multiplications() -> None:
    tied = cost("mixer_nano4")
    untied = cost("untied_nano4")
    assert untied.macs == tied.macs
    token_mlps = 8 * (2 * 64 * 64 + 64 + 64)
    assert untied.params - tied.params == (128 - 1) * token_mlps
    assert cost("pyramid_nano4").macs < 0.75 * tied.macs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"group": 5}, r"group \* token_mlps must divide hidden_dim, got 5 \* 1"),
        ({"group": 3, "token_mlps": 8}, r"must divide hidden_dim, got 3 \* 8"),
        ({"token_mlps": 0}, "token_mlps must be at least 1, got 0"),
        (
            {"pyramid": (7,)},
            r"pyramid must fall from 6 tokens, at most once a block, got \(7,\)",
        ),
        ({"pyramid": (2, 4)}, "pyramid must fall"),
        ({"pyramid": (3, 0)}, "pyramid must fall"),
        ({"pyramid": (5, 4, 3)}, "pyramid must fall"),
        ({"image_size": (8, 13)}, "nearest legal size is 8x12"),
    ],
)
def test_illegal_configurations(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TokenMixingConfig(**SMALL | fields)
