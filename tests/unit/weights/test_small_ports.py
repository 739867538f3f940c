"""Two small PyTorch ports in our own words: the names and numbers of their lineages.

What the originals do was read in jeonsworld/MLP-Mixer-Pytorch (models/modeling.py,
commit d1c049c) and rishikksh20/MLP-Mixer-pytorch (mlp-mixer.py, commit 72800b5): names,
erf GELU, epsilon, one norm before each MLP.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mlp_mixer import load
from mlp_mixer.weights.convert import convert
from mlp_mixer.weights.formats import containers
from mlp_mixer.weights.lineages.tables import LINEAGES

from .closeness import ROUNDING_32, assert_same_function, difference

SIZE = 12
PATCH = 4
WIDTH = 8
TOKENS = 5
CHANNELS = 11
CLASSES = 3
GRID = SIZE // PATCH


class TwoLayers(nn.Module):
    """jeonsworld's MLP counts its layers from 0."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc0 = nn.Linear(width, hidden)
        self.fc1 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(nn.functional.gelu(self.fc0(x)))


class JeonsworldBlock(nn.Module):
    """`pre_norm` stands before the token MLP and `post_norm` before the channel MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.token_mlp_block = TwoLayers(GRID**2, TOKENS)
        self.channel_mlp_block = TwoLayers(WIDTH, CHANNELS)
        self.pre_norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.post_norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, x_BSC: Tensor) -> Tensor:
        x_BSC = x_BSC + self.token_mlp_block(self.pre_norm(x_BSC).mT).mT
        return x_BSC + self.channel_mlp_block(self.post_norm(x_BSC))


class Jeonsworld(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.pre_head_ln = nn.LayerNorm(WIDTH, eps=1e-6)
        self.layer = nn.ModuleList(JeonsworldBlock() for _ in range(depth))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BSC = self.stem(x_BCHW).flatten(2).mT
        for block in self.layer:
            x_BSC = block(x_BSC)
        return self.head(self.pre_head_ln(x_BSC).mean(1))


class Swapped(nn.Module):
    """einops' Rearrange, which has no tensors but takes a number in the list."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mT


class AsTokens(nn.Module):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.flatten(2).mT


class Net(nn.Module):
    """Its dropouts count even when they drop nothing: the second layer is `net.3`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        layers = (
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Linear(hidden, width),
            nn.Dropout(0.0),
        )
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Rishikksh20Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_mix = nn.Sequential(
            nn.LayerNorm(WIDTH), Swapped(), Net(GRID**2, TOKENS), Swapped()
        )
        self.channel_mix = nn.Sequential(nn.LayerNorm(WIDTH), Net(WIDTH, CHANNELS))

    def forward(self, x_BSC: Tensor) -> Tensor:
        x_BSC = x_BSC + self.token_mix(x_BSC)
        return x_BSC + self.channel_mix(x_BSC)


class Rishikksh20(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.to_patch_embedding = nn.Sequential(
            nn.Conv2d(3, WIDTH, PATCH, PATCH), AsTokens()
        )
        self.mixer_blocks = nn.ModuleList(Rishikksh20Block() for _ in range(depth))
        self.layer_norm = nn.LayerNorm(WIDTH)
        self.mlp_head = nn.Sequential(nn.Linear(WIDTH, CLASSES))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BSC = self.to_patch_embedding(x_BCHW)
        for block in self.mixer_blocks:
            x_BSC = block(x_BSC)
        return self.mlp_head(self.layer_norm(x_BSC).mean(1))


PORTS: dict[str, type[Jeonsworld] | type[Rishikksh20]] = {
    "jeonsworld": Jeonsworld,
    "rishikksh20": Rishikksh20,
}


def randomised(name: str, depth: int) -> nn.Module:
    """A port in evaluation mode with no parameter at its initial value."""
    network = PORTS[name](depth).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("depth", [1, 2, 11])
@pytest.mark.parametrize("name", PORTS)
def test_the_names_are_those_of_the_port(name: str, depth: int) -> None:
    names = [entry.theirs for entry in LINEAGES[name].table(depth)]
    assert len(names) == 12 * depth + 6
    assert sorted(names) == sorted(PORTS[name](depth).state_dict())


@pytest.mark.parametrize("wrap", [None, "state_dict"])
@pytest.mark.parametrize("name", PORTS)
def test_the_logits_are_those_of_the_port(
    name: str, wrap: str | None, tmp_path: Path
) -> None:
    network = randomised(name, 3)
    state = network.state_dict()
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "theirs.pth")
    ours = load(tmp_path / "theirs.pth")
    assert ours.provenance["lineage"] == name
    images = torch.randn(5, 3, SIZE, SIZE)
    with torch.inference_mode():
        assert_same_function(ours.model, network, images)


@pytest.mark.parametrize("name", PORTS)
def test_a_wrong_epsilon_would_be_seen(name: str, tmp_path: Path) -> None:
    # A stem whose outputs hardly vary: the epsilon is not lost beside their variance.
    network = randomised(name, 1)
    with torch.no_grad():
        for parameter in (
            network.stem if name == "jeonsworld" else network.to_patch_embedding[0]
        ).parameters():
            parameter.mul_(1e-3)
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    ours = load(tmp_path / "theirs.pth").model
    images = torch.randn(5, 3, SIZE, SIZE)
    with torch.inference_mode():
        assert_same_function(ours, network, images)
        for module in ours.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = {1e-5: 1e-6, 1e-6: 1e-5}[module.eps]
        assert difference(ours(images), network(images)) > 100 * ROUNDING_32


@pytest.mark.parametrize("name", PORTS)
def test_the_port_loads_what_we_write(name: str, tmp_path: Path) -> None:
    network = randomised(name, 2)
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    native = convert(
        tmp_path / "theirs.pth", tmp_path / "ours.safetensors", "native"
    ).path
    back = containers.read(convert(native, tmp_path / "back.pth", name).path).tensors
    assert randomised(name, 2).load_state_dict(back, strict=True)
    assert all(
        torch.equal(back[key], tensor) for key, tensor in network.state_dict().items()
    )
