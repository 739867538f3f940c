"""What every network of every family must do.

A variant without a golden row fails; so does a row without a variant.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mlp_mixer import load, save
from mlp_mixer.errors import UserError
from mlp_mixer.models import (
    ALL_VARIANTS,
    FAMILIES,
    IsotropicMlp,
    MixerConfig,
    cost,
    create_model,
    model_config,
    variants,
)
from mlp_mixer.models.cost import _watch
from mlp_mixer.models.families import config_from_dict, config_to_dict
from mlp_mixer.models.resmlp import Affine, ResMlpBlock
from mlp_mixer.training.config import ModelChoice, OptimChoice
from mlp_mixer.training.optim.build import build_optimizer

# Parameters with 1000 classes at the variant's own size, and multiply-accumulates in
# units of 1e6.
GOLDEN = {
    "mixer_s32": (19_104_624, 1002),
    "mixer_s16": (18_528_264, 3777),
    "mixer_s8": (20_646_504, 14875),
    "mixer_b32": (60_293_428, 3238),
    "mixer_b16": (59_880_472, 12602),
    "mixer_l32": (206_939_264, 11253),
    "mixer_l16": (208_196_168, 44548),
    "mixer_h14": (432_350_952, 120990),
    "mixer_pico2": (203_624, 2),
    "mixer_pico7": (212_264, 3),
    "mixer_micro4": (748_680, 43),
    "mixer_nano4": (1_259_880, 76),
    "mixer_nano2": (1_453_416, 303),
    "mixer_mini4": (1_359_080, 77),
    "mixer_tiny4": (4_615_400, 303),
    "mixer_tiny2": (5_000_936, 1209),
    "untied_s32": (122_911_208, 1002),
    "grouped_s32": (19_305_720, 1002),
    "views_s32": (21_805_064, 1105),
    "pyramid_s16": (18_314_526, 2640),
    "untied_nano4": (9_713_000, 76),
    "grouped_nano4": (1_325_928, 76),
    "views_nano4": (1_589_096, 84),
    "pyramid_nano4": (1_242_312, 53),
    "gmixer_12": (12_701_080, 2659),
    "gmixer_24": (24_721_096, 5260),
    "resmlp_12": (15_350_872, 3010),
    "resmlp_24": (30_020_680, 5961),
    "resmlp_36": (44_690_488, 8913),
    "resmlp_big_24": (129_138_280, 100231),
    "gmlp_ti16": (5_867_328, 1329),
    "gmlp_s16": (19_422_656, 4392),
    "gmlp_b16": (73_075_392, 15720),
}
OF_TIMM = ("gmixer", "resmlp", "gmlp")
TIMM = [name for name in GOLDEN if name.startswith(OF_TIMM)]

# 6 tokens; one of each family and of each option, and two together.
TINY: dict[str, dict[str, Any]] = {
    "mixer_nano4": {"tokens_mlp_dim": 5},
    "untied_nano4": {"tokens_mlp_dim": 5, "token_mlps": 12},
    "grouped_nano4": {"tokens_mlp_dim": 5, "group": 3},
    "views_nano4": {"tokens_mlp_dim": 5},
    "pyramid_nano4": {"tokens_mlp_dim": 5, "pyramid": (3,)},
    "pyramid_s16": {
        "tokens_mlp_dim": 5,
        "token_mlps": 3,
        "group": 2,
        "views": True,
        "pyramid": (4, 2),
        "patch_size": 4,
    },
    "gmixer_12": {"tokens_mlp_dim": 5, "patch_size": 4},
    "resmlp_12": {"layer_scale": 0.5, "patch_size": 4},
    "gmlp_s16": {"patch_size": 4},
}


def tiny(name: str, **fields: Any) -> IsotropicMlp:
    small = {
        "image_size": (8, 12),
        "num_blocks": 2,
        "hidden_dim": 12,
        "channels_mlp_dim": 20,
        "num_classes": 5,
    }
    torch.manual_seed(0)
    return create_model(name, **small | TINY[name] | fields)


def randomised(model: IsotropicMlp) -> IsotropicMlp:
    """Every parameter random, so that each of them matters; in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    return model.eval()


def images_for(model: IsotropicMlp, batch: int = 3) -> Tensor:
    size = (batch, model.config.in_channels, *model.config.image_size)
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(size, generator=generator)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Equal but for the rounding of fp32, as a share of the largest value."""
    bound = 5e-6 * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound)


def numbers_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_variant_has_a_row_and_every_family_a_tiny_one() -> None:
    assert list(GOLDEN) == list(ALL_VARIANTS) == variants()
    kinds = {kind for kind, _ in FAMILIES.values()}
    assert {type(ALL_VARIANTS[name]) for name in TINY} == kinds


@pytest.mark.parametrize("name", ALL_VARIANTS)
def test_counts(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    counted = cost(name)
    names = [name for name, _ in model.named_parameters()]
    assert len(set(names)) == len(names)
    head = 1000 * (model.config.hidden_dim + 1)
    assert counted.params == numbers_of(model)
    assert counted.params_without_head == counted.params - head
    params, millions_of_macs = GOLDEN[name]
    assert counted.params == params
    assert round(counted.macs / 1e6) == millions_of_macs


OF_A_MIXER = [
    {},
    {"num_classes": 0},
    {"dropout": 0.1, "in_channels": 1},
    {"final_norm": False},
]


@pytest.mark.parametrize("fields", OF_A_MIXER, ids=str)
def test_what_is_watched_is_what_the_formulas_say(fields: dict[str, Any]) -> None:
    """Families without formulas are counted on the meta device, a Mixer in both ways."""
    config = tiny("mixer_nano4", **fields).config
    assert isinstance(config, MixerConfig)
    numbers = (
        "params",
        "params_without_head",
        "macs",
        "activations",
        "gmacs_mmpretrain",
        "gmacs_fvcore",
    )
    by_formula = cost(config)
    watched = _watch(config)
    for number in numbers:
        expected = pytest.approx(getattr(by_formula, number), rel=1e-12)
        assert getattr(watched, number) == expected, number


@pytest.mark.parametrize("name", TINY)
def test_activations_are_what_autograd_keeps(name: str) -> None:
    model = tiny(name)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        if storage not in weights:
            kept[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # The name keeps the graph alive: no storage is freed and its address used again.
        logits = model(images_for(model, 1))
    held = sum(tensor.untyped_storage().nbytes() // 4 for tensor in kept.values())
    del logits
    assert cost(model).activations == held


def test_timms_own_count() -> None:
    """The column infer_gmacs of timm's tables is fvcore's count."""
    published = {"gmlp_s16": 4.42, "gmixer_24": 5.28, "resmlp_24": 5.96}
    for name, gmacs in published.items():
        assert round(cost(name).gmacs_fvcore, 2) == gmacs


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", TIMM)
def test_names_and_shapes_are_timms(name: str) -> None:
    with torch.device("meta"):
        ours = create_model(name)
        theirs = timm.create_model(f"{name}_224")
    assert shapes(ours) == shapes(theirs)


SCALES = ("norm.weight", "norm1.weight", "norm2.weight", "alpha")


def randomise_theirs(theirs: nn.Module, generator: torch.Generator) -> None:
    """Every parameter random, in sizes that keep logits around 1."""
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            std = 0.15
            if parameter.ndim > 1:
                std = 0.5 / parameter[0].numel() ** 0.5
            centre = 1.0 if key.endswith(SCALES) else 0.0
            parameter.normal_(centre, std, generator=generator)


@pytest.mark.parametrize("name", ["gmixer_12", "resmlp_12", "gmlp_ti16"])
@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 48, 32)], ids=str)
def test_logits_are_timms(name: str, shape: tuple[int, int, int]) -> None:
    """Whole depth and width, timm's own file names, in double precision.

    So a wrong GELU (2e-4) or epsilon (2e-6) shows.
    """
    channels, *size = shape
    theirs = timm.create_model(
        f"{name}_224", img_size=size, in_chans=channels, num_classes=7
    )
    generator = torch.Generator().manual_seed(0)
    theirs = theirs.double().eval()
    randomise_theirs(theirs, generator)
    ours = create_model(
        name, image_size=tuple(size), in_channels=channels, num_classes=7
    )
    ours = ours.double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(image)
        tokens = theirs.forward_features(image)
        pooled = theirs.forward_head(tokens, pre_logits=True)
        out = ours.features(image)
        assert 0.05 < expected.std() < 20
        close: dict[str, Any] = {"rtol": 0, "atol": 1e-10}
        torch.testing.assert_close(ours(image), expected, **close)
        torch.testing.assert_close(out["pre_logits"], pooled, **close)


@pytest.mark.parametrize("name", ["gmixer_12", "resmlp_24", "gmlp_ti16"])
def test_gates_and_scales_begin_as_in_timm(name: str) -> None:
    their_network = timm.create_model(f"{name}_224", img_size=32)
    our_network = create_model(name, image_size=32, num_blocks=1)
    theirs = their_network.blocks[0].state_dict()
    ours = our_network.blocks[0].state_dict()
    assert ours.keys() == theirs.keys()
    ends = ("fc1.bias", "proj.bias", "proj.weight", "ls1", "ls2", "alpha")
    special = [key for key in theirs if key.endswith(ends)]
    assert special
    for key in special:
        # What is random there is as small as 1e-6.
        bound = 1e-12 if key.startswith("ls") else 1e-5
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=bound)
    if "mlp_tokens.fc1.weight" in ours:
        _, gate = ours["mlp_tokens.fc1.weight"].chunk(2)
        assert 0 < gate.abs().max() < 1e-5


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"in_channels": 1},
        {"image_size": (16, 12)},
        {"num_classes": 0},
        {"num_classes": 1},
    ],
    ids=str,
)
def test_shapes_and_features(name: str, fields: dict[str, Any]) -> None:
    model = randomised(tiny(name, **fields))
    C = model.config.hidden_dim
    K = model.config.num_classes
    image = images_for(model)
    out = model.features(image)
    assert model(image).shape == (3, K or C)
    assert (model.num_features, model.num_classes) == (C, K)
    assert torch.equal(out["logits"], model(image))
    x_BTC = model.forward_features(image)
    assert torch.equal(out["norm"], x_BTC)
    pooled = model.forward_head(x_BTC, pre_logits=True)
    assert torch.equal(out["pre_logits"], pooled)
    assert next(iter(out)) == "stem"
    assert {f"blocks.{i}" for i in range(2)} <= out.keys()
    with pytest.raises(UserError, match="takes images of shape"):
        model(torch.zeros(3, 3, 4, 4))


@pytest.mark.parametrize("name", TINY)
def test_a_block_adds_its_branches_to_its_input(name: str) -> None:
    """Only where a pyramid has fewer tokens after it does a branch replace its input."""
    model = randomised(tiny(name))
    out = model.features(images_for(model))
    x_BSC = out["stem"]
    for i in range(2):
        prefix = f"blocks.{i}."
        branches = [out[key] for key in out if key.startswith(prefix)]
        assert len(branches) == (1 if name.startswith("gmlp") else 2)
        for branch in branches:
            same_tokens = branch.shape == x_BSC.shape
            assert same_tokens or name.startswith("pyramid")
            x_BSC = x_BSC + branch if same_tokens else branch
        assert torch.equal(out[f"blocks.{i}"], x_BSC)


@pytest.mark.parametrize("name", TINY)
def test_features_in_training_follow_the_same_randomness(name: str) -> None:
    model = randomised(tiny(name, drop_path=0.5, dropout=0.3)).train()
    torch.manual_seed(2)
    logits = model(images_for(model))
    torch.manual_seed(2)
    assert torch.equal(model.features(images_for(model))["logits"], logits)


@pytest.mark.parametrize("name", TINY)
def test_classifier_can_be_replaced(name: str) -> None:
    model = randomised(tiny(name))
    images = images_for(model)
    before = model.features(images)["pre_logits"]
    model.reset_classifier(7)
    assert model.get_classifier() is model.head
    assert torch.equal(model(images), torch.zeros(3, 7))
    model.reset_classifier(0)
    assert torch.equal(model(images), before)


@pytest.mark.parametrize("name", TINY)
def test_initialisation_follows_the_seed_and_leaves_nothing_out(name: str) -> None:
    first = tiny(name)
    second = tiny(name)
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key]), key
    # Whatever an uninitialised tensor holds must be overwritten. These begin right.
    begin_right = (nn.LayerNorm, Affine, ResMlpBlock)
    for module in first.modules():
        if not isinstance(module, begin_right):
            for parameter in module.parameters(recurse=False):
                nn.init.constant_(parameter, torch.nan)
    torch.manual_seed(0)
    first.reset_parameters()
    for key, tensor in first.state_dict().items():
        assert tensor.isfinite().all(), key
    images = images_for(first)
    assert torch.equal(first(images), torch.zeros(3, 5))
    assert 0.1 < first.forward_features(images).std() < 10


@pytest.mark.parametrize("name", TINY)
def test_gradients_flow_to_every_parameter_and_recomputing_gives_the_same(
    name: str,
) -> None:
    model = tiny(name, dropout=0.3, drop_path=0.3, drop_path_rule="timm")
    model = randomised(model).train()
    generator = torch.Generator().manual_seed(5)
    draws = torch.rand(3, 2, 2, generator=generator)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(4)
        logits = model(images_for(model), draws)
        logits.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    plain, recomputed = gradients
    assert all(map(torch.equal, plain, recomputed))
    for (key, _), gradient in zip(model.named_parameters(), plain, strict=True):
        assert gradient.any(), key


@pytest.mark.parametrize("name", TINY)
def test_draws_drop_whole_branches(name: str) -> None:
    """A draw near 1 drops, near 0 keeps; the skip connection stays."""
    model = randomised(tiny(name, drop_path=0.5, drop_path_rule="paper")).train()
    image = images_for(model)
    kept = torch.zeros(3, 2, 2)
    whole = model(image, kept)
    assert torch.equal(whole, model.eval()(image))
    dropped = kept.clone()
    dropped[1, 1] = 0.99
    change = (model.train()(image, dropped) - whole).abs().amax(dim=1)
    bound = 5e-6 * whole.abs().max()
    assert (change > bound).tolist() == [False, True, False]


@pytest.mark.parametrize("name", TINY)
def test_each_branch_has_its_own_draw(name: str) -> None:
    model = randomised(tiny(name, drop_path=0.5)).train()
    image = images_for(model, 1)
    kept = torch.zeros(1, 2, 2)
    logits = []
    for branch in range(2):
        draws = kept.clone()
        draws[0, 1, branch] = 0.99
        logits.append(model(image, draws))
    first, second = logits
    assert not torch.equal(first, second)
    # gMLP has one branch and does not look at the second draw.
    unchanged = torch.equal(second, model(image, kept))
    assert unchanged == name.startswith("gmlp")


@pytest.mark.parametrize("name", TINY)
def test_compiles_as_one_graph(name: str) -> None:
    torch.compiler.reset()
    model = randomised(tiny(name))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images = images_for(model)
    assert_near(compiled(images), model(images))


@pytest.mark.parametrize("name", TINY)
def test_exports_with_any_batch_size(name: str) -> None:
    model = randomised(tiny(name))
    batch = {"image": {0: torch.export.Dim("batch")}}
    example = (images_for(model, 3),)
    exported = torch.export.export(model, example, dynamic_shapes=batch).module()
    for size in (1, 8):
        images = images_for(model, size)
        assert_near(exported(images), model(images))


@pytest.mark.parametrize("name", TINY)
def test_bfloat16(name: str) -> None:
    model = randomised(tiny(name))
    expected = model(images_for(model))
    actual = model.bfloat16()(images_for(model).bfloat16())
    assert actual.dtype == torch.bfloat16
    bound = 0.1 * expected.abs().max().item()
    torch.testing.assert_close(actual.float(), expected, rtol=0.1, atol=bound)


@pytest.mark.parametrize("name", TINY)
def test_checkpoint_round_trip(name: str, tmp_path: Path) -> None:
    model = randomised(tiny(name, in_channels=1))
    about: dict[str, Any] = {"labels": list("abcde"), "provenance": {"a": 1}}
    path = save(tmp_path / "m.safetensors", model, **about)
    loaded = load(path)
    assert loaded.model.config == model.config
    assert loaded.labels == tuple("abcde")
    images = images_for(model)
    assert torch.equal(loaded.model(images), model(images))
    again = save(tmp_path / "n.safetensors", loaded.model, **about)
    assert again.read_bytes() == path.read_bytes()
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["mlp_mixer"])
    assert described["format_version"] == 1
    # A Mixer's file names no family, as every earlier version wrote and reads.
    family = described["config"].get("family")
    kind, _ = FAMILIES[family or "mixer"]
    assert type(model.config) is kind
    assert (family is None) == isinstance(model.config, MixerConfig)


@pytest.mark.parametrize("config", ALL_VARIANTS.values(), ids=ALL_VARIANTS)
def test_configurations_survive_json(config: Any) -> None:
    text = json.dumps(config_to_dict(config))
    assert config_from_dict(json.loads(text)) == config


def test_what_json_cannot_be() -> None:
    with pytest.raises(UserError, match="unknown family 'gmpl'; did you mean 'gmlp'"):
        config_from_dict({"family": "gmpl"})
    fields = config_to_dict(ALL_VARIANTS["gmlp_s16"]) | {"tokens_mlp_dim": 4}
    with pytest.raises(UserError, match="unknown field 'config.tokens_mlp_dim'"):
        config_from_dict(fields)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_few_training_steps_lower_the_loss(name: str, optimizer: Any) -> None:
    model = tiny(name, drop_path=0.1)
    model.train()
    choice = OptimChoice(optimizer, lr=0.01, weight_decay=0.1)
    optimiser = build_optimizer(model, choice)
    decayed = set()
    for group in optimiser.param_groups:
        if group["weight_decay"]:
            decayed |= {id(parameter) for parameter in group["params"]}
    never = ("bias", "bias1", "bias2", "ls1", "ls2", "alpha", "beta")
    for key, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and not key.endswith(never)
        assert (id(parameter) in decayed) == decays, key
    image = images_for(model, 10)
    labels = torch.arange(10) % 5
    losses = []
    for _ in range(12):
        logits = model(image, torch.rand(10, 2, 2))
        loss = nn.functional.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_training_s_model_choice_fits_every_family() -> None:
    """`--set model.name=...`: fields left at none are the variant's."""
    choice = ModelChoice(name="gmlp_s16", image_size=32, patch_size=4)
    fields = dataclasses.asdict(choice)
    for name in ("resize", "init", "stem", "head", "evaluation"):
        del fields[name]
    given = {key: value for key, value in fields.items() if value is not None}
    config = model_config(**given)
    assert (config.image_size, config.patch_size) == ((32, 32), 4)
    assert config.num_blocks == 30
    with pytest.raises(UserError, match="unknown field 'tokens_mlp_dim'"):
        model_config("gmlp_s16", tokens_mlp_dim=3)
    message = "unknown model 'gmlp_x16'; did you mean 'gmlp_s16'"
    with pytest.raises(UserError, match=message):
        create_model("gmlp_x16")
