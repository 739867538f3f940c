"""timm's registry with our sizes, and the names and arguments with which timm builds
our configurations.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import mlp_mixer as timms_mixer

from mlp_mixer import MixerConfig, MlpMixer, UserError
from mlp_mixer.compat import timm_models
from mlp_mixer.compat.timm_models import entry_point, register
from mlp_mixer.models import VARIANTS, model_config
from mlp_mixer.weights.lineages import timm_names
from mlp_mixer.weights.lineages.timm_names import ENTRY_POINTS, TIMMS_OWN, EntryPoint

OURS = sorted(set(ENTRY_POINTS) - TIMMS_OWN)


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def build(config: MixerConfig, found: EntryPoint | None) -> torch.nn.Module:
    assert found is not None
    return timm.create_model(
        found.name, num_classes=config.num_classes, **found.model_args
    )


def test_register_names_what_is_ours_and_may_be_repeated() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # timm warns when an entry point is overwritten
        assert sorted(register()) == OURS == sorted(register())
    assert {"mixer_s8_224", "mixer_h14_224", "mixer_pico2_8", "mixer_nano4_32"} <= set(
        OURS
    )
    assert set(OURS) <= set(timm.list_models("mixer_*"))


def test_timms_own_names_stay_timms_own() -> None:
    for name in TIMMS_OWN:
        assert timm.model_entrypoint(name).__module__ == timms_mixer.__name__


def test_an_entry_point_of_somebody_else_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def theirs() -> None: ...

    monkeypatch.setitem(
        timm.models._registry._model_entrypoints, "mixer_nano4_32", theirs
    )
    assert "mixer_nano4_32" not in register()
    assert timm.model_entrypoint("mixer_nano4_32") is theirs


def test_star_imports_still_work_after_timm_added_its_names() -> None:
    assert all(hasattr(timm_models, name) for name in timm_models.__all__)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_has_an_entry_point_with_our_names_and_shapes(name: str) -> None:
    config = dataclasses.replace(VARIANTS[name], num_classes=7)
    found = entry_point(config)
    # The only one whose widths are not those of Table 1.
    own = {"mlp_ratio": [0.25, 2.0]} if name == "mixer_mini4" else {}
    assert found == EntryPoint(
        f"{name}_{config.image_size[0]}",
        own,
        needs_register=found is not None and found.name in OURS,
    )
    with torch.device("meta"):
        assert shapes(build(config, found)) == shapes(MlpMixer(config))


def test_no_two_rows_share_an_entry_point() -> None:
    sizes = [
        (row.patch_size, row.num_blocks, row.hidden_dim) for row in VARIANTS.values()
    ]
    assert len(set(sizes)) == len(sizes)


def test_timms_own_table_is_what_we_say() -> None:
    registered = {
        name
        for name in timm.list_models(module="mlp_mixer")
        if name.startswith("mixer_")
    }
    assert registered == TIMMS_OWN


ODD: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "rectangle": ("mixer_nano4", {"image_size": (32, 64)}, {"img_size": [32, 64]}),
    "one channel": ("mixer_pico7", {"in_channels": 1}, {"in_chans": 1}),
    "five channels": ("mixer_b32", {"in_channels": 5}, {"in_chans": 5}),
    "larger": ("mixer_s16", {"image_size": 256}, {"img_size": [256, 256]}),
    "odd tokens": (
        "mixer_pico2",
        {"tokens_mlp_dim": 17},
        {"mlp_ratio": [17 / 64, 4.0]},
    ),
    "odd both": (
        "mixer_micro4",
        {"tokens_mlp_dim": 49, "channels_mlp_dim": 383},
        {"mlp_ratio": [49 / 96, 383 / 96]},
    ),
    "no head": ("mixer_nano2", {"num_classes": 0}, {}),
    "all": (
        "mixer_micro4",
        {
            "image_size": (4, 8),
            "in_channels": 2,
            "tokens_mlp_dim": 1,
            "channels_mlp_dim": 1000,
        },
        {},
    ),
}


@pytest.mark.parametrize("case", ODD.values(), ids=ODD.keys())
def test_odd_configurations_get_exactly_their_shapes(
    case: tuple[str, dict[str, Any], dict[str, Any]],
) -> None:
    name, fields, expected = case
    config = model_config(name, **({"num_classes": 3} | fields))
    found = entry_point(config)
    assert found is not None
    if expected or name == "mixer_nano2":
        assert found.model_args == expected
    assert json.loads(json.dumps(found.model_args)) == found.model_args
    with torch.device("meta"):
        assert shapes(build(config, found)) == shapes(MlpMixer(config))


@pytest.mark.parametrize("dim", [24, 49, 64, 96, 128, 384, 512, 768, 1000, 1280])
def test_every_width_has_a_ratio(dim: int) -> None:
    """width / dim is enough for most; int(27 / 49 * 49) is 26."""
    for width in range(1, 5 * dim):
        assert int(timm_names._ratio(width, dim) * dim) == width


@pytest.fixture
def size_of_24(monkeypatch: pytest.MonkeyPatch) -> Iterator[MixerConfig]:
    """A size nobody has, registered like any other and forgotten afterwards."""
    row = MixerConfig(4, 2, 24, 12, 96, image_size=(16, 16))
    monkeypatch.setitem(ENTRY_POINTS, "mixer_test_16", row)
    assert "mixer_test_16" in register()
    yield row
    timm.models._registry._clear_model_entries("mixer_test_16")
    del timm.models._registry._model_entrypoints["mixer_test_16"]
    timm_models.__all__.remove("mixer_test_16")


def test_a_width_of_17_in_24(size_of_24: MixerConfig) -> None:
    config = dataclasses.replace(
        size_of_24, tokens_mlp_dim=17, image_size=(8, 12), in_channels=1, num_classes=4
    )
    found = entry_point(config)
    assert found is not None
    assert found.name == "mixer_test_16"
    assert shapes(build(config, found)) == shapes(MlpMixer(config))


@pytest.mark.parametrize(
    "changes",
    [{"patch_size": 8}, {"num_blocks": 7}, {"hidden_dim": 129}, {"final_norm": False}],
)
def test_what_timm_cannot_build_has_no_entry_point(changes: dict[str, Any]) -> None:
    assert entry_point(dataclasses.replace(VARIANTS["mixer_nano4"], **changes)) is None


def random_mixer(**fields: Any) -> MlpMixer:
    model = MlpMixer(
        model_config(
            "mixer_pico7",
            **({"gelu": "erf", "num_classes": 6, "num_blocks": 4} | fields),
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@torch.no_grad()
def test_the_logits_are_the_same() -> None:
    model = random_mixer(image_size=(14, 28), in_channels=1, tokens_mlp_dim=17)
    theirs = build(model.config, entry_point(model.config)).eval()
    theirs.load_state_dict(model.state_dict(), strict=True)
    # In double precision: what is the same in exact numbers.
    image = torch.randn(3, 1, 14, 28, dtype=torch.float64)
    expected = model.double()(image)
    torch.testing.assert_close(theirs.double()(image), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_timm_loads_a_local_folder(tmp_path: Path) -> None:
    model = random_mixer(image_size=(14, 28), in_channels=1, tokens_mlp_dim=17)
    found = entry_point(model.config)
    assert found is not None
    record = {
        "input_size": [1, 14, 28],
        "num_classes": 6,
        "mean": [0.5],
        "std": [0.5],
        "fixed_input_size": True,
    }
    record |= {"first_conv": "stem.proj", "classifier": "head"}
    described = {
        "architecture": found.name,
        "num_classes": 6,
        "model_args": found.model_args,
        "pretrained_cfg": record,
    }
    (tmp_path / "config.json").write_text(json.dumps(described))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = torch.randn(3, 1, 14, 28)
    expected = model(image)
    bound = 5e-6 * expected.abs().max().item()
    torch.testing.assert_close(theirs(image), expected, rtol=0, atol=bound)
    other_head = timm.create_model(
        f"local-dir:{tmp_path}", pretrained=True, num_classes=2
    )
    assert shapes(other_head)["head.weight"] == (2, 64)
    stem = other_head.state_dict()["stem.proj.weight"]
    assert torch.equal(stem, model.stem.proj.weight)


def test_the_entry_points_behave_like_timms() -> None:
    model = timm.create_model("mixer_nano4_32", num_classes=10)
    cfg = model.pretrained_cfg
    timms = timm.create_model("mixer_s32_224").pretrained_cfg
    assert tuple(cfg["input_size"]) == (3, 32, 32)
    shared = "mean std interpolation crop_pct first_conv classifier"
    for key in (*shared.split(), "fixed_input_size", "pool_size"):
        assert cfg[key] == timms[key], key
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(TypeError, match="patch_size"):
        timm.create_model("mixer_nano4_32", patch_size=8)
    features = timm.create_model("mixer_pico7_28", features_only=True)
    maps = features(torch.zeros(1, 3, 28, 28))
    assert [x.shape for x in maps] == [(1, 64, 4, 4)] * 3


def test_the_names_come_without_timm() -> None:
    """`entry_point` is for rooms that must not need timm; importing the room of compat
    does not either.
    """
    code = (
        "import sys; from mlp_mixer.weights.lineages.timm_names import entry_point; from mlp_mixer import compat;"
        "from mlp_mixer.models import VARIANTS; assert entry_point(VARIANTS['mixer_s16']).name == 'mixer_s16_224';"
        "assert not any(m == 'timm' or m.startswith('timm.') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1200)
    imports = [
        n
        for n in ast.parse(Path(timm_names.__file__).read_text()).body
        if isinstance(n, (ast.Import, ast.ImportFrom))
    ]
    assert {node.module for node in imports if isinstance(node, ast.ImportFrom)} <= {
        "__future__",
        "dataclasses",
        "typing",
        "models.base",
        "models.mixer",
    }


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(UserError, match="pip install timm"):
        register()
