"""A lineage is recognised by names; other families are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mlp_mixer import UserError
from mlp_mixer.weights.lineages import translate
from mlp_mixer.weights.lineages.recognise import recognise, refuse_names
from mlp_mixer.weights.lineages.tables import LINEAGES

from ..networks import SQUARE, random_tensors
from ..small_files import refused

STRANGERS = {
    "vit_tiny_patch16_224": "holds a Vision Transformer, not an MLP-Mixer",
    "deit_tiny_distilled_patch16_224": "holds a Vision Transformer, not an MLP-Mixer",
    "resnet10t": "holds a convolutional network with batch norm, such as a ResNet, not",
    "convnext_atto": "holds a ConvNeXt or a relative, not an MLP-Mixer",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_other_networks_are_named(tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        tensors = timm.create_model(name).state_dict()
    first = {
        name: tensor
        for name, tensor in tensors.items()
        if not re.match(r"(blocks|stages)\.[1-9]", name)
    }
    torch.save(
        {
            name: torch.zeros(tensor.shape, dtype=torch.half)
            for name, tensor in first.items()
        },
        tmp_path / "m.pth",
    )
    refused(tmp_path / "m.pth", STRANGERS[name])


def test_the_optimiser_of_a_big_vision_checkpoint_is_left_out() -> None:
    theirs = translate.to_theirs(SQUARE, random_tensors(SQUARE), LINEAGES["bigvision"])
    training = {
        name.replace("params/", "opt/target/"): tensor
        for name, tensor in theirs.items()
    }
    training |= {
        "opt/state/step": torch.zeros(()),
        "opt/state/param_states/head/bias/grad_ema": torch.zeros(3),
    }
    lineage, prefix = recognise(training, "it")
    assert (lineage.name, prefix) == ("bigvision", "opt/target/")
    assert translate.to_ours(training, lineage, prefix, "it")[0] == SQUARE


@pytest.mark.parametrize(
    ("count", "shown"), [(4, "a0, a1, a2, a3"), (5, "a0, a1, a2, a3, ...")]
)
def test_the_first_four_names_are_shown(count: int, shown: str) -> None:
    names = [f"a{number}" for number in range(count)]
    said = f"its tensors are {shown}"
    with pytest.raises(UserError) as caught:
        refuse_names(names, "x.pth", "timm")
    assert str(caught.value).endswith(said)


def test_a_network_that_was_cut_off_before_its_final_norm_is_told_so() -> None:
    timm = LINEAGES["timm"]
    tensors = translate.to_theirs(SQUARE, random_tensors(SQUARE), timm)
    cut = {key: value for key, value in tensors.items() if not key.startswith("norm.")}
    assert len(cut) == len(tensors) - 2
    with pytest.raises(UserError, match="lacks the norm behind the last block"):
        translate.to_ours(cut, timm, "", "x.pth")
    del cut["head.bias"]
    with pytest.raises(UserError, match="missing head.bias"):
        translate.to_ours(cut, timm, "", "x.pth")
