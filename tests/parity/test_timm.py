"""timm reads what is written here, its files are read here, and both compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config, resolve_model_data_config
from timm.models import load_state_dict, save_for_hf

from mlp_mixer import (
    Checkpoint,
    MlpMixer,
    Preprocess,
    UserError,
    load,
    save,
    save_pretrained,
)
from mlp_mixer.compat import timm_models
from mlp_mixer.models import model_config
from mlp_mixer.weights.convert import convert
from mlp_mixer.weights.lineages.timm_names import entry_point

from ..unit.weights.closeness import (
    assert_same_function,
    assert_same_network,
    assert_same_weights,
    difference,
    in_float64,
)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "a size of timm's own": ("mixer_s32", {"image_size": (64, 64)}),
    "nano4": ("mixer_nano4", {}),
    "pico2": ("mixer_pico2", {}),
    "gray": ("mixer_pico7", {"in_channels": 1}),
    "rectangle": ("mixer_pico7", {"image_size": (14, 28)}),
    "odd widths": ("mixer_micro4", {"tokens_mlp_dim": 49, "channels_mlp_dim": 383}),
    "no head": ("mixer_pico2", {"num_classes": 0}),
    "one class": ("mixer_pico2", {"num_classes": 1}),
    "all at once": (
        "mixer_pico2",
        {
            "image_size": (6, 4),
            "in_channels": 2,
            "tokens_mlp_dim": 1,
            "channels_mlp_dim": 7,
            "num_classes": 9,
        },
    ),
}


@pytest.fixture(autouse=True)
def _registered() -> None:
    timm_models.register()


def mixer(name: str, **fields: Any) -> Checkpoint:
    """A Mixer with erf GELU, random parameters, names of classes, an odd range of values."""
    model = MlpMixer(
        model_config(name, **({"gelu": "erf", "num_classes": 6} | fields))
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    config = model.config
    mean = (0.1, 0.4, 0.7)[: config.in_channels]
    std = (0.2, 0.5, 0.9)[: config.in_channels]
    preprocess = Preprocess(
        config.image_size, channels=config.in_channels, crop_pct=0.8, mean=mean, std=std
    )
    labels = tuple(f"kind {number}" for number in range(config.num_classes)) or None
    return Checkpoint(model, preprocess, labels, {"origin": "a test"})


def inputs(checkpoint: Checkpoint) -> torch.Tensor:
    config = checkpoint.model.config
    return torch.randn(2, config.in_channels, *config.image_size)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@torch.inference_mode()
def test_every_way_between_timm_and_here_keeps_the_weights(
    case: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    checkpoint = mixer(case[0], **case[1])
    config = checkpoint.model.config
    weights = checkpoint.model.state_dict()
    image = inputs(checkpoint)
    assert checkpoint.model(image).std() > 0.01 or config.num_classes == 1

    folder = save_pretrained(checkpoint, tmp_path / "ours")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert_same_weights(theirs.state_dict(), weights)
    assert_same_function(checkpoint.model, theirs, image)
    assert theirs.num_classes == config.num_classes
    assert list(theirs.pretrained_cfg.get("label_names") or ()) == list(
        checkpoint.labels or ()
    )
    data = resolve_model_data_config(theirs)
    assert (tuple(data["mean"]), tuple(data["std"])) == (
        checkpoint.preprocess.mean,
        checkpoint.preprocess.std,
    )
    assert tuple(data["input_size"]) == (config.in_channels, *config.image_size)
    assert (data["interpolation"], data["crop_pct"], data["crop_mode"]) == (
        "bicubic",
        0.8,
        "center",
    )

    native = save(tmp_path / "native.safetensors", checkpoint.model)
    for suffix in (".safetensors", ".pth"):
        file = convert(native, tmp_path / f"out{suffix}", "timm").path
        entry = entry_point(config)
        assert entry is not None
        bare = timm.create_model(
            entry.name, num_classes=config.num_classes, **entry.model_args
        ).eval()
        bare.load_state_dict(load_state_dict(str(file)), strict=True)
        assert_same_weights(bare.state_dict(), weights)
        assert_same_function(checkpoint.model, bare, image)

    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    # As timm's train.py does.
    training = {"state_dict": theirs.state_dict(), "epoch": 3}
    torch.save(training, tmp_path / "theirs.pth.tar")
    for name in ("theirs.safetensors", "theirs.pth.tar"):
        ours = load(tmp_path / name, image_size=config.image_size)
        assert_same_network(ours.model, checkpoint.model)

    saved = tmp_path / "saved by timm"
    save_for_hf(
        theirs,
        str(saved),
        model_config={"label_names": checkpoint.labels},
        safe_serialization=True,
    )
    assert "mlp_mixer" not in json.loads((saved / "config.json").read_text())
    back = load(saved)
    assert (back.preprocess, back.labels) == (checkpoint.preprocess, checkpoint.labels)
    assert_same_network(back.model, checkpoint.model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_half_precision_is_stored_and_full_precision_computes(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    checkpoint = mixer("mixer_pico2")
    checkpoint.model.to(dtype)
    folder = save_pretrained(checkpoint, tmp_path)
    ours = load(folder)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    image = inputs(checkpoint)
    assert ours.model(image).dtype == torch.float32
    assert_same_function(ours.model, theirs, image)


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


SAME = [
    {
        "interpolation": interpolation,
        "resize": resize,
        "crop_pct": crop_pct,
        "image_size": size,
    }
    for interpolation in ("bicubic", "bilinear", "nearest", "area")
    for resize, crop_pct, size in (
        ("resmall", 0.875, (32, 32)),
        ("resmall", 1.0, (32, 32)),
        ("resize", 0.9, (32, 32)),
        ("resize", 1.0, (16, 32)),
    )
]


@pytest.mark.parametrize(
    "fields", SAME, ids=lambda fields: " ".join(map(str, fields.values()))
)
def test_timms_transform_gives_the_same_pixels(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    size = fields["image_size"]
    preprocess = Preprocess(**fields, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    model = MlpMixer(
        model_config("mixer_pico2", image_size=size, gelu="erf", num_classes=2)
    )
    folder = save_pretrained(Checkpoint(model, preprocess), tmp_path)
    assert "Their preprocessing differs" not in (folder / "README.md").read_text()
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True)
    transform = create_transform(
        **resolve_data_config({}, model=theirs), is_training=False
    )
    for height, width in ((50, 70), (101, 40), (32, 32), (33, 97)):
        image = picture(height, width)
        pixels = preprocess(np.asarray(image))
        # The order of / 255 and - mean; a grey level is 5e-3.
        torch.testing.assert_close(transform(image), pixels, rtol=0, atol=1e-6)
    again = json.loads((folder / "config.json").read_text())
    del again["mlp_mixer"]
    (folder / "config.json").write_text(json.dumps(again))
    assert load(folder).preprocess == preprocess


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"resampler": "opencv"}, "not as opencv does"),
        (
            {"resampler": "big_vision", "interpolation": "area"},
            "not as big_vision does",
        ),
        (
            {"resampler": "vit_jax", "interpolation": "bilinear", "resize": "resize"},
            "not as vit_jax does",
        ),
        ({"resize": "none"}, "images of other sizes"),
        ({"image_size": (8, 16)}, "round the longer side"),
    ],
)
def test_the_nearest_transform_is_written_and_the_card_says_so(
    fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    preprocess = Preprocess(**({"image_size": (16, 16)} | fields))
    model = MlpMixer(
        model_config(
            "mixer_pico2", image_size=preprocess.image_size, gelu="erf", num_classes=2
        )
    )
    folder = save_pretrained(Checkpoint(model, preprocess), tmp_path)
    assert (
        said
        in (folder / "README.md")
        .read_text()
        .split("Their preprocessing differs from the one above: ")[1]
    )
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True)
    transform = create_transform(
        **resolve_data_config({}, model=theirs), is_training=False
    )
    exact = (
        picture(*preprocess.image_size)
        if preprocess.resize == "none"
        else picture(60, 60)
    )
    mean = (transform(exact) - preprocess(np.asarray(exact))).abs().mean()
    assert mean < (1e-6 if preprocess.resize == "none" else 0.5)
    assert load(folder).preprocess == preprocess


GOLDENS = (
    "timm_a",
    "timm_b",
    "mmpretrain_a",
    "google_npz_a",
    "lavish619_paper_a",
    "lucidrains_b",
    "keras_a",
)


@pytest.mark.parametrize("golden", GOLDENS)
@torch.inference_mode()
def test_a_foreign_checkpoint_becomes_a_folder_that_gives_its_logits(
    shared: Path, golden: str, tmp_path: Path
) -> None:
    """Of sizes that timm has no name for: refused, or forced and read here alone."""
    source = shared / "golden" / golden
    file = next(
        path
        for path in sorted(source.iterdir())
        if path.name not in ("io.npz", "meta.json")
    )
    with pytest.raises(
        UserError, match="timm has no entry point|a norm before pooling"
    ):
        convert(file, tmp_path / "out", "huggingface")
    done = convert(file, tmp_path / "out", "huggingface", force=True)
    assert any("not the same results" in note for note in done.notes)
    io = np.load(source / "io.npz")
    image = torch.from_numpy(io["input_nhwc"]).permute(0, 3, 1, 2)
    model = load(done.path).model
    assert_same_network(model, load(file).model)
    # The rounding of the originals themselves, as in test_goldens.py.
    logits = in_float64(model)(image)
    assert (logits - torch.from_numpy(io["logits"])).abs().max() <= 1e-6
    with pytest.raises(KeyError):
        timm.create_model(f"local-dir:{done.path}", pretrained=True)


@torch.inference_mode()
def test_timms_own_golden_through_its_own_class(shared: Path, tmp_path: Path) -> None:
    """There and back, into timm's own class: the logits that it recorded."""
    source = shared / "golden" / "timm_b"
    io = np.load(source / "io.npz")
    meta = json.loads((source / "meta.json").read_text())
    native = convert(
        source / "model.safetensors", tmp_path / "native.safetensors", "native"
    ).path
    theirs = timm.models.mlp_mixer.MlpMixer(
        num_classes=meta["num_classes"],
        img_size=tuple(meta["image_size"]),
        patch_size=meta["patch_size"],
        num_blocks=meta["num_blocks"],
        embed_dim=meta["hidden_dim"],
    ).eval()
    theirs.load_state_dict(
        load_state_dict(str(convert(native, tmp_path / "back.pth", "timm").path)),
        strict=True,
    )
    image = torch.from_numpy(io["input_nhwc"]).permute(0, 3, 1, 2)
    logits = in_float64(theirs)(image)
    assert (logits - torch.from_numpy(io["logits"])).abs().max() <= 1e-6


@torch.inference_mode()
def test_another_gelu_is_refused_or_forced_and_read_here_exactly(
    tmp_path: Path,
) -> None:
    checkpoint = mixer("mixer_nano4", gelu="tanh")
    image = inputs(checkpoint)
    native = save(
        tmp_path / "native.safetensors",
        checkpoint.model,
        preprocess=checkpoint.preprocess,
    )
    with pytest.raises(
        UserError, match="tanh form of GELU, timm computes erf.*--force"
    ):
        convert(native, tmp_path / "forced", "huggingface")
    forced = convert(native, tmp_path / "forced", "huggingface", force=True).path
    assert_same_network(load(forced).model, checkpoint.model)
    # As it was asked for: timm loads it, and computes erf.
    theirs = timm.create_model(f"local-dir:{forced}", pretrained=True).eval()
    ours = in_float64(checkpoint.model)(image)
    assert 1e-6 < difference(in_float64(theirs)(image), ours) < 1e-1

    closed = save_pretrained(checkpoint, tmp_path / "closed")
    assert_same_network(load(closed).model, checkpoint.model)
    assert (
        "would not give the same results: the weights use the tanh form"
        in (closed / "README.md").read_text()
    )
    with pytest.raises(KeyError):
        timm.create_model(f"local-dir:{closed}", pretrained=True)


def test_older_and_odder_configurations_of_timm(tmp_path: Path) -> None:
    """All keys at the top, labels by number, a box filter, and RGB's mean for one channel."""
    checkpoint = mixer("mixer_pico7", in_channels=1, num_classes=3)
    save_file(checkpoint.model.state_dict(), tmp_path / "model.safetensors")
    legacy = {
        "architecture": "mixer_pico7_28",
        "num_classes": 3,
        "labels": {"2": "c", "0": "a", "1": "b"},
    }
    legacy |= {
        "input_size": [1, 28, 28],
        "interpolation": "box",
        "crop_mode": "squash",
        "crop_pct": 1.0,
    }
    legacy |= {"mean": [0.2, 0.3, 0.4], "std": [0.5]}
    (tmp_path / "config.json").write_text(json.dumps(legacy))
    back = load(tmp_path)
    assert back.labels == ("a", "b", "c")
    assert back.preprocess == Preprocess(
        (28, 28), 1, "resize", 1.0, "area", mean=(0.9 / 3,), std=(0.5,)
    )


@pytest.mark.parametrize(("given", "size"), [([4, 16], (4, 16)), (8, (8, 8))])
def test_the_arguments_of_the_model_know_its_size(
    given: Any, size: tuple[int, int], tmp_path: Path
) -> None:
    """As in configurations that have them beside the size of the entry point."""
    save_file(
        mixer("mixer_pico2", image_size=size).model.state_dict(),
        tmp_path / "model.safetensors",
    )
    described = {"architecture": "mixer_pico2_8", "model_args": {"img_size": given}}
    (tmp_path / "config.json").write_text(
        json.dumps(described | {"pretrained_cfg": {"input_size": [3, 32, 2]}})
    )
    assert load(tmp_path).preprocess.image_size == size


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"interpolation": "lanczos"},
            "unknown interpolation in config.json 'lanczos'",
        ),
        ({"crop_mode": "border"}, "unknown crop_mode in config.json 'border'"),
        (
            {"mean": ["much"]},
            "mean in config.json is \\['much'\\], expected a list of numbers",
        ),
    ],
)
def test_a_transform_without_words_here_is_refused(
    record: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_file(mixer("mixer_pico2").model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "mixer_pico2_8", "pretrained_cfg": record})
    )
    with pytest.raises(UserError, match=message):
        load(tmp_path)
