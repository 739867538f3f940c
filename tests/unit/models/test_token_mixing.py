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
            parameter.normal_(
                std=0.5, generator=torch.Generator().manual_seed(parameter.numel())
            )
    return block.double()


def plain_mlp(
    vector: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, gelu: str
) -> Tensor:
    return W2 @ F.gelu(W1 @ vector + b1, approximate=gelu) + b2


def one_by_one(
    block: TokenMixingBlock, tokens: int, x_SC: Tensor, G: int, gelu: str
) -> Tensor:
    """Every vector of concatenated columns by itself, through the token MLP that is its
    own.
    """
    x_SC = block.norm1(x_SC)
    if not isinstance(block.views, torch.nn.Identity):
        x_SC = x_SC @ block.views.weight.T
    columns = []
    M = x_SC.shape[1] // G
    for m in range(M):
        vector = torch.cat([x_SC[:, m * G + g] for g in range(G)])
        mlp = block.mlp_tokens
        if isinstance(mlp, UntiedMlp):
            N = len(mlp.weight1)
            n = m // (M // N)  # which of the N serves this vector
            biases = mlp.bias1.view(N, -1)[n], mlp.bias2.view(N, -1)[n]
            out = plain_mlp(
                vector, mlp.weight1[n], biases[0], mlp.weight2[n], biases[1], gelu
            )
        else:
            out = plain_mlp(
                vector, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias, gelu
            )
        columns += list(out.view(G, tokens))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(
    ("fields", "G", "tokens"),
    [
        ({}, 1, 6),
        ({"gelu": "erf"}, 1, 6),
        ({"token_mlps": 12}, 1, 6),  # untied
        ({"token_mlps": 12, "gelu": "erf"}, 1, 6),
        ({"token_mlps": 3}, 1, 6),  # four neighbouring channels share one
        ({"group": 3}, 3, 6),
        ({"group": 3, "views": True}, 3, 6),
        ({"group": 2, "token_mlps": 3}, 2, 6),
        ({"pyramid": (4, 4)}, 1, 4),
        ({"group": 2, "token_mlps": 6, "views": True, "pyramid": (4, 1)}, 2, 4),
    ],
    ids=str,
)
def test_equals_one_vector_at_a_time(
    fields: dict[str, Any], G: int, tokens: int
) -> None:
    block = block_of(**fields)
    x_BSC = torch.randn(2, 6, 12, dtype=torch.float64)
    gelu = "none" if fields.get("gelu") == "erf" else "tanh"
    expected = torch.stack([one_by_one(block, tokens, x_SC, G, gelu) for x_SC in x_BSC])
    torch.testing.assert_close(block.mix_tokens(x_BSC), expected, rtol=0, atol=1e-12)
    mixed = (
        x_BSC + expected if tokens == 6 else expected
    )  # no skip connection around fewer tokens
    out = mixed + block.mlp_channels(block.norm2(mixed))
    torch.testing.assert_close(block(x_BSC), out, rtol=0, atol=1e-12)


def test_the_defaults_are_the_paper_s_mixer() -> None:
    torch.manual_seed(1)
    ours = build_network(TokenMixingConfig(**SMALL))
    torch.manual_seed(1)
    plain = MlpMixer(MixerConfig(**SMALL))
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(plain.state_dict(), strict=True)
    image = torch.randn(2, 3, 8, 12)
    assert torch.equal(ours(image), plain(image))


def test_equal_token_mlps_are_one() -> None:
    """The standard tied MLP is where all C of the untied agree."""
    tied = block_of()
    untied = block_of(token_mlps=12)
    untied.load_state_dict(
        {
            **untied.state_dict(),
            **{k: v for k, v in tied.state_dict().items() if "tokens" not in k},
        }
    )
    with torch.no_grad():
        for side in ("1", "2"):
            fc = getattr(tied.mlp_tokens, f"fc{side}")
            getattr(untied.mlp_tokens, f"weight{side}").copy_(
                fc.weight.expand(12, -1, -1)
            )
            getattr(untied.mlp_tokens, f"bias{side}").copy_(fc.bias.repeat(12))
    x_BSC = torch.randn(3, 6, 12, dtype=torch.float64)
    torch.testing.assert_close(untied(x_BSC), tied(x_BSC), rtol=0, atol=1e-12)


def test_untied_channels_mix_by_themselves_and_grouped_ones_together() -> None:
    """What column c reads: itself; with groups its neighbours in the group; with views
    every channel.
    """

    def read_by_column_0(**fields: Any) -> list[int]:
        block = block_of(**fields)
        block.norm1 = torch.nn.Identity()
        jacobian = torch.autograd.functional.jacobian(
            block.mix_tokens, torch.randn(1, 6, 12, dtype=torch.float64)
        )
        return jacobian[0, :, 0, 0].abs().sum((0, 1)).nonzero().flatten().tolist()

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
    for weight in (
        mlps.weight1,
        mlps.weight2,
    ):  # lecun-normal, by the 100 that each output reads
        for one in weight:
            assert 0.095 < one.std() < 0.105
    assert not mlps.bias1.any()
    assert not mlps.bias2.any()


@pytest.mark.parametrize(
    ("fields", "N", "G", "after"),
    [
        ({}, 1, 1, (6, 6)),
        ({"token_mlps": 12}, 12, 1, (6, 6)),
        ({"token_mlps": 4}, 4, 1, (6, 6)),
        ({"group": 3}, 1, 3, (6, 6)),
        ({"group": 4, "views": True}, 1, 4, (6, 6)),
        ({"group": 2, "token_mlps": 2, "pyramid": (4, 2)}, 2, 2, (4, 2)),
        ({"pyramid": (2,)}, 1, 1, (6, 2)),
    ],
    ids=str,
)
def test_parameters_and_multiplications_by_formula(
    fields: dict[str, Any], N: int, G: int, after: Any
) -> None:
    config = TokenMixingConfig(**SMALL | fields)
    S = 6
    C = 12
    D_S = 5
    D_C = 20
    K = 3
    values = 3 * 4 * 4
    views = C * C * config.views
    params = (values * C + C) + 2 * C + (C * K + K)
    macs = S * values * C + C * K
    for before, T in zip((S, *after), after, strict=False):
        params += N * (G * before * D_S + D_S + D_S * G * T + G * T) + views
        params += (2 * C * D_C + D_C + C) + 4 * C
        macs += C // G * D_S * G * (before + T) + before * views + T * 2 * C * D_C
    assert (cost(config).params, cost(config).macs) == (params, macs)
    out = build_network(config).features(torch.randn(2, 3, 8, 12))
    assert [out[f"blocks.{i}"].shape[1] for i in range(2)] == list(after)


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
