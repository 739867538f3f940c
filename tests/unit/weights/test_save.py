"""What `save` takes and refuses: the file loads as the very network, or is not written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from mlp_mixer import (
    Checkpoint,
    MlpMixer,
    Predictor,
    Preprocess,
    UserError,
    cost,
    create_model,
    load,
    save,
    save_pretrained,
)

SMALL: dict[str, Any] = {
    "image_size": 8,
    "num_blocks": 3,
    "hidden_dim": 8,
    "tokens_mlp_dim": 4,
    "channels_mlp_dim": 16,
    "num_classes": 3,
}
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

Change = Callable[[MlpMixer], Any]
"""Takes a network and changes it, or returns another module."""


def network(**fields: Any) -> MlpMixer:
    """A small Mixer with no parameter at its initial zero."""
    made = create_model("mixer_nano4", **{**SMALL, **fields})
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert isinstance(made, MlpMixer)
    return made.eval()


def put(name: str, part: Any) -> Change:
    """Puts something in the place of a part."""

    def change(model: MlpMixer) -> None:
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, part)

    return change


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def compile_a_block(model: MlpMixer) -> None:
    model.blocks[1] = compiled(model.blocks[1])


def count_operations(model: MlpMixer) -> None:
    """Leaves what thop leaves."""
    for module in model.modules():
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))


class Adapter(nn.Module):
    """The layout of peft's LoRA."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Linear(base.in_features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_A(x)


class Doubled(MlpMixer):
    def forward(self, image: Tensor, draws_BL2: Tensor | None = None) -> Tensor:
        return 2 * super().forward(image, draws_BL2)


class Holder(nn.Module):
    """As a module of Lightning holds a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


def give_adapter(model: MlpMixer) -> None:
    mlp: Any = model.blocks[0].mlp_channels
    mlp.fc1 = Adapter(mlp.fc1)


def delete_last_block(model: MlpMixer) -> None:
    del model.blocks[2]


def share_a_block(model: MlpMixer) -> None:
    model.blocks[1] = model.blocks[0]


def share_a_weight(model: MlpMixer) -> None:
    model.norm.weight = model.blocks[0].norm1.weight


def prune_a_layer(model: MlpMixer) -> None:
    layer = model.blocks[0].mlp_tokens.fc1
    prune.l1_unstructured(layer, "weight", 0.5)


def normalise_a_weight(model: MlpMixer) -> None:
    parametrizations.weight_norm(model.blocks[0].mlp_tokens.fc1)


def round_a_weight(model: MlpMixer) -> None:
    layer = model.blocks[0].mlp_tokens.fc1
    rounded = layer.weight.detach().to(torch.int8)
    layer.weight = nn.Parameter(rounded, requires_grad=False)


def break_a_weight(model: MlpMixer) -> None:
    nn.init.constant_(model.blocks[1].norm1.bias, float("nan"))


@pytest.mark.parametrize(
    "change",
    [
        compiled,
        nn.DataParallel,
        AveragedModel,
        lambda model: compiled(AveragedModel(model)),
        compile_a_block,
        count_operations,
        put("head", nn.Linear(8, 5)),
        put("head", nn.Identity()),
        put("blocks.0.mlp_tokens.drop", nn.Identity()),
    ],
)
def test_what_computes_the_same_is_written(tmp_path: Path, change: Change) -> None:
    model = network()
    returned = change(model)
    changed = model if returned is None else returned
    # The eager module says what is right, whatever is around it.
    with torch.no_grad():
        expected = model(IMAGES)
    loaded = load(save(tmp_path / "m.safetensors", changed)).model
    torch.testing.assert_close(loaded(IMAGES), expected, rtol=0, atol=1e-6)
    counted = cost(changed).params
    assert counted == sum(tensor.numel() for tensor in loaded.parameters())


REFUSED: list[tuple[Change, str]] = [
    (put("head", nn.Sequential(nn.Dropout(), nn.Linear(8, 5))), "reset_classifier"),
    (put("head", nn.Linear(8, 3, bias=False)), "reset_classifier"),
    (put("blocks.0.mlp_tokens.act", nn.ReLU()), "act is ReLU"),
    (put("blocks.1.mlp_channels.act", nn.GELU()), "approximate='none'"),
    (put("norm", nn.LayerNorm(8, eps=1e-3)), "eps=0.001"),
    (put("norm", nn.Identity()), "norm is Identity"),
    (put("stem.proj", nn.Conv2d(3, 8, 4, stride=2)), "stride"),
    (put("blocks.0.mlp_tokens.fc1", nn.Linear(4, 7)), "out_features=7"),
    (delete_last_block, "num_blocks"),
    (lambda model: model.register_buffer("seen", torch.tensor(3)), "persistent"),
    (prune_a_layer, r"prune\.remove"),
    (normalise_a_weight, "remove_parametrizations"),
    (give_adapter, "merge_and_unload"),
    (lambda model: Holder(model), "'net'"),
    (lambda model: Doubled(model.config), "Doubled"),
    (share_a_block, "deepcopy"),
    (share_a_weight, "deepcopy"),
    (round_a_weight, "quantised"),
    (lambda model: nn.Linear(3, 3), "create_model"),
    (lambda model: model.state_dict(), "create_model"),
]
# These are networks as they are built, with numbers that no file should hold.
NO_NUMBERS: list[tuple[Change, str]] = [
    (break_a_weight, "NaN"),
    (lambda model: model.to("meta"), "meta"),
]


@pytest.mark.parametrize(("change", "advice"), REFUSED + NO_NUMBERS)
def test_what_would_load_otherwise_is_refused(
    tmp_path: Path, change: Change, advice: str
) -> None:
    path = save(tmp_path / "m.safetensors", network())
    before = path.read_bytes()
    model: Any = network()
    returned = change(model)
    if not isinstance(returned, (Tensor, type(None))):
        model = returned
    with pytest.raises(UserError, match=advice):
        save(path, model)
    assert path.read_bytes() == before
    with pytest.raises(UserError, match=advice):
        save_pretrained(Checkpoint(model, Preprocess((8, 8))), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(("change", "advice"), REFUSED[:12])
def test_what_is_counted_and_used_is_asked_the_same(
    change: Change, advice: str
) -> None:
    model = network()
    change(model)
    with pytest.raises(UserError, match=advice):
        cost(model)
    with pytest.raises(UserError, match=advice):
        Predictor(Checkpoint(model, Preprocess((8, 8))))


def test_pruning_is_written_once_it_is_permanent(tmp_path: Path) -> None:
    model = network()
    prune_a_layer(model)
    expected = model(IMAGES)
    prune.remove(model.blocks[0].mlp_tokens.fc1, "weight")
    loaded = load(save(tmp_path / "m.safetensors", model)).model
    torch.testing.assert_close(loaded(IMAGES), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["pyramid_nano4", "gmlp_ti16", "resmlp_12"])
def test_every_family_is_what_its_configuration_builds(
    tmp_path: Path, name: str
) -> None:
    model = create_model(name, image_size=32, num_classes=2)
    assert load(save(tmp_path / "m.safetensors", model)).model.config == model.config


@pytest.mark.parametrize("given", ["compiled", "as it is", "parallel", "double"])
def test_a_predictor_leaves_the_callers_model_as_it_was(given: str) -> None:
    model = network().train()
    model.blocks[0].eval()
    if given == "double":
        model.double()
    modes = [module.training for module in model.modules()]
    wrap = {"compiled": compiled, "parallel": torch.nn.DataParallel}
    outer = wrap.get(given, lambda network: network)(model)
    predictor = Predictor(Checkpoint(outer, Preprocess((8, 8))))
    predictor(np.zeros((8, 8, 3), np.uint8))
    assert modes == [module.training for module in model.modules()]
    # They share the weights: no second copy in memory.
    assert predictor.model.norm.weight.data_ptr() == model.norm.weight.data_ptr()


def test_provenance_takes_the_numbers_that_people_have(tmp_path: Path) -> None:
    origin = {
        "accuracy": np.float32(0.5),
        "epoch": np.int64(3),
        "means": np.arange(2),
        "loss": torch.tensor(0.25),
        "data": Path("photos/new"),
        np.int64(7): (True, None),
    }
    path = save(tmp_path / "m.safetensors", network(), provenance=origin)
    assert load(path).provenance == {
        "accuracy": 0.5,
        "epoch": 3,
        "means": [0, 1],
        "loss": 0.25,
        "data": "photos/new",
        "7": [True, None],
    }


@pytest.mark.parametrize("origin", [{"a": object()}, {"a": {"b": [1 + 2j]}}])
def test_provenance_that_json_cannot_hold_is_named(
    tmp_path: Path, origin: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"provenance\['a'\].*expected numbers, text"):
        save(tmp_path / "m.safetensors", network(), provenance=origin)


def test_labels_may_be_whole_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", network(), labels=np.array([3, 1, 2]))
    assert load(path).labels == ("3", "1", "2")


@pytest.mark.parametrize("labels", ["ab", 3, [1.5, 2.5, 3.5], [None, "a", "b"]])
def test_other_labels_are_refused(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(UserError, match="expected"):
        save(tmp_path / "m.safetensors", network(), labels=labels)


@pytest.mark.parametrize("name", ["m.pth", "m.PT", "m.ckpt", "m.npz", "m.onnx"])
def test_the_ending_of_another_kind_of_file_is_refused(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError, match=r"\.safetensors file.*convert"):
        save(tmp_path / name, network())
    assert not (tmp_path / name).exists()
