"""LightPredictor: the answers of Predictor without torch, and refusals of all else."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from mlp_mixer import (
    Checkpoint,
    Failure,
    LightPredictor,
    MixerConfig,
    Prediction,
    Predictor,
    Preprocess,
    UserError,
    create_model,
    load,
    save,
)
from mlp_mixer.inference.identity import identity
from mlp_mixer.inference.light import MOST_MULTIPLY_ADDS, choose_predictor
from mlp_mixer.inference.light_checkpoint import NeedsTorchError
from mlp_mixer.inference.numpy_mixer import MixerFields, erf, read_mixer
from mlp_mixer.models import cost
from mlp_mixer.weights.catalog import BUNDLED, START
from mlp_mixer.weights.checkpoint import KEY
from mlp_mixer.weights.seal import sealed

BIRD = Path(__file__).parents[3] / "demo" / "bird.JPEG"

NETWORKS: dict[str, dict[str, Any]] = {
    "as the paper": {},
    "erf": {"gelu": "erf"},
    "no final norm": {"final_norm": False},
    "another epsilon": {"norm_eps": 1e-2},
    "gray, no square": {"in_channels": 1, "image_size": (8, 24)},
    "six channels": {"in_channels": 6},
    "one class": {"num_classes": 1},
    "one patch": {"patch_size": 16},
    "with dropout": {"dropout": 0.3, "drop_path": 0.2, "drop_path_rule": "timm"},
}


def network(**fields: Any) -> torch.nn.Module:
    sizes: dict[str, Any] = {
        "patch_size": 4,
        "num_blocks": 3,
        "hidden_dim": 12,
        "tokens_mlp_dim": 10,
        "channels_mlp_dim": 28,
        "image_size": (16, 16),
        "num_classes": 5,
    }
    torch.manual_seed(0)
    model = create_model("mixer_nano4", **{**sizes, **fields}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def stored(path: Path, model: torch.nn.Module, **more: Any) -> Path:
    config = model.config
    preprocess = Preprocess(config.image_size, channels=config.in_channels)
    return save(path, model, **{"preprocess": preprocess, **more})


@pytest.mark.parametrize("fields", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_logits_are_torchs(
    fields: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    path = stored(tmp_path / "m.safetensors", network(**fields).to(dtype))
    checkpoint = load(path)
    config = checkpoint.model.config
    images = torch.randn(3, config.in_channels, *config.image_size)
    with torch.inference_mode():
        expected = checkpoint.model.double()(images.double())
    scale = max(1.0, expected.abs().max().item())
    found = read_mixer(path).run(images.numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=5e-6 * scale)


def test_erf_is_that_of_the_library() -> None:
    x = np.linspace(-6, 6, 20_001, dtype=np.float32)
    expected = np.array([math.erf(value) for value in x])
    assert np.abs(erf(x) - expected).max() < 5e-7


@pytest.mark.parametrize("resampler", ["pillow", "vit_jax", "big_vision", "opencv"])
@pytest.mark.parametrize("size", [(40, 30), (16, 16), (5, 900), (333, 201)])
def test_the_network_sees_the_same_pixels(
    resampler: str, size: tuple[int, int]
) -> None:
    preprocess = Preprocess(
        (16, 16),
        interpolation="bilinear",
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.1),
        resampler=resampler,  # type: ignore[arg-type]
    )
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = preprocess(image).numpy()
    found = preprocess.array(image)
    assert found.dtype == expected.dtype
    assert found.flags.c_contiguous
    # A level of 256 would be 0.01; these are the last bits.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [str(BUNDLED), START])
def test_bundled_weights_answer_the_same(name: str) -> None:
    light = LightPredictor(name)(BIRD)
    full = Predictor(name)(BIRD)
    same_but_for_rounding(light, full)


def same_but_for_rounding(light: Prediction, full: Prediction) -> None:
    ours, theirs = light.to_dict(), full.to_dict()
    for values in (ours, theirs):
        candidates = [*values["top"], *(values.get("labels") or ())]
        values["scores"] = [round(c.pop("score"), 4) for c in candidates]
        values["pred_score"] = round(values["pred_score"], 4)
    assert ours == theirs


@pytest.mark.parametrize(
    "more",
    [
        {"labels": "abcde"},
        {"provenance": {"head": "sigmoid"}},
        {"provenance": {"head": "semantic softmax"}},
        {"provenance": {"head": "sigmoid", "thresholds": [0.5] * 5}},
    ],
    ids=str,
)
def test_words_and_scores_are_the_same(
    more: dict[str, Any], tmp_path: Path, pictures: list[Path]
) -> None:
    path = stored(tmp_path / "m.safetensors", network(), **more)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    asked = [pictures[0], broken, *pictures[1:], tmp_path / "nowhere.jpg"]
    light, full = LightPredictor(path), Predictor(path)
    for ours, theirs in zip(light.predict(asked), full.predict(asked), strict=True):
        if isinstance(theirs, Failure):
            assert ours == theirs
        else:
            assert isinstance(ours, Prediction)
            same_but_for_rounding(ours, theirs)
    # Files that one has begun are continued by the other.
    assert identity(light) == identity(full)


def test_the_lowest_score_and_given_names_hold(pictures: list[Path]) -> None:
    options: dict[str, Any] = {"min_score": 0.99, "labels": "a,b,c,d,e,f,g,h,i,j"}
    light = LightPredictor(BUNDLED, top=20, **options)
    full = Predictor(BUNDLED, top=20, **options)
    assert light.top == full.top == 10
    same_but_for_rounding(light(pictures[0]), full(pictures[0]))
    assert identity(light) == identity(full)


def test_fields_and_counts_are_those_of_the_network() -> None:
    ours = {field.name for field in dataclasses.fields(MixerFields)}
    assert ours == {field.name for field in dataclasses.fields(MixerConfig)}
    config = network().config
    fields = MixerFields(**dataclasses.asdict(config))
    assert fields.multiply_adds == cost(config).macs
    state = {name: tuple(t.shape) for name, t in network().state_dict().items()}
    assert list(fields.shapes().items()) == list(state.items())


def test_other_weights_are_left_to_torch(tmp_path: Path) -> None:
    family = create_model("gmlp_s16", num_blocks=1, num_classes=3)
    bf16 = network().to(torch.bfloat16)
    headless = network(num_classes=0)
    others: list[Path | str] = ["mixer_b16.goog_in1k", "mixer_nano4", tmp_path]
    for number, model in enumerate((family, bf16, headless)):
        others.append(stored(tmp_path / f"{number}.safetensors", model))
    foreign = tmp_path / "foreign.safetensors"
    save_file(load_file(BUNDLED), foreign)
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"")
    for source in (*others, foreign, empty, BIRD):
        with pytest.raises(NeedsTorchError, match="needs torch: .*; use Predictor"):
            LightPredictor(source)


@pytest.mark.parametrize("place", [0, 3, 9, 200, 1500, -7_000, -1])
def test_a_flipped_bit_is_never_answered_from(place: int, tmp_path: Path) -> None:
    data = bytearray(stored(tmp_path / "m.safetensors", network()).read_bytes())
    data[place] ^= 1
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(data)
    with pytest.raises(NeedsTorchError):
        LightPredictor(path)
    with pytest.raises(UserError) as raised:
        choose_predictor(path, [str(BIRD)])
    assert "use Predictor" not in str(raised.value)


def test_claims_are_bounded(tmp_path: Path) -> None:
    """A description of a billion blocks beside three tensors."""
    path = stored(tmp_path / "m.safetensors", network())
    for field, value in {
        "num_blocks": 10**9,
        "hidden_dim": 0,
        "patch_size": 3,
        "norm_eps": 0.0,
        "gelu": "relu",
        "image_size": [16, 16, 16],
        "surprise": 1,
    }.items():
        tensors = {n: torch.from_numpy(a) for n, a in load_file(path).items()}
        about = {
            "format_version": 1,
            "config": {**dataclasses.asdict(network().config), field: value},
            "preprocess": dataclasses.asdict(Preprocess((16, 16))),
            "labels": None,
            "provenance": {},
        }
        claimed = tmp_path / f"{field}.safetensors"
        claimed.write_bytes(b"".join(sealed(tensors, {KEY: json.dumps(about)})))
        with pytest.raises(NeedsTorchError):
            read_mixer(claimed)


class FakePredictor:
    def __init__(self, *arguments: object, **options: object) -> None: ...


def test_torch_answers_for_many_pictures_and_other_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [str(BIRD)]
    assert isinstance(choose_predictor(BUNDLED, few), LightPredictor)
    assert isinstance(choose_predictor(BUNDLED, few, device="cpu"), LightPredictor)
    for options in (
        {"engine": "plain"},
        {"larger": "tile"},
        {"features": True},
        {"device": "meta"},
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mlp_mixer.inference.predictor.Predictor", FakePredictor)
            chosen = choose_predictor(BUNDLED, few, **options)  # type: ignore[arg-type]
            assert isinstance(chosen, FakePredictor)
    most = MOST_MULTIPLY_ADDS // read_mixer(BUNDLED).multiply_adds
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(most):
        (folder / f"{number}.png").touch()
    assert isinstance(choose_predictor(BUNDLED, [str(folder)]), LightPredictor)
    for pictures in ([*few, str(folder)], ["-"], ["a.mp4"]):
        assert isinstance(choose_predictor(BUNDLED, pictures), Predictor)


def test_one_picture_where_there_are_several(tree: Path) -> None:
    with pytest.raises(UserError, match=r"stands for several images; use predict\(\)"):
        LightPredictor()(tree)
    with pytest.raises(UserError, match="cannot open the image"):
        LightPredictor()("nowhere.png")
    with pytest.raises(UserError, match="top must be at least 1"):
        LightPredictor(top=0)


def test_arrays_and_pillow_images_are_taken(checkpoint: Checkpoint) -> None:
    image = Image.open(BIRD)
    answers = list(LightPredictor().predict([image, np.asarray(image), BIRD]))
    labels = {answer.pred_label for answer in answers if isinstance(answer, Prediction)}
    assert len(answers) == 3
    assert len(labels) == 1


WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "h5py", "sklearn"):
    sys.modules[name] = None  # an import of it raises
import mlp_mixer
from mlp_mixer.cli import run
assert mlp_mixer.LightPredictor()(sys.argv[1]).pred_class == "bird"
codes = [run(["predict", *words.split()]) for words in sys.argv[2:]]
assert codes == [0] * len(codes), codes
"""


def test_no_part_of_the_way_imports_torch(tmp_path: Path) -> None:
    """The law that keeps the start short: torch alone takes two seconds."""
    calls = [
        f"{BIRD}",
        f"{BIRD} --json",
        f"{BUNDLED} {BIRD.parent} --top 2",
        f"{BUNDLED.stem} {BIRD} --min-score 0.99",
        f"{BIRD} --out {tmp_path / 'a.csv'}",
        f"{BIRD} --sort-into {tmp_path / 'sorted'}",
    ]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, BIRD, *calls], check=True)
