"""The bundled weights: small, described in full, and true to their description."""

from __future__ import annotations

import importlib.resources
import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image

import mlp_mixer
from mlp_mixer import Predictor, inference_model, load
from mlp_mixer.models import VARIANTS, MlpMixer, cost
from mlp_mixer.weights import list_models, read_weights
from mlp_mixer.weights.catalog import BUNDLED, CATALOG, START
from mlp_mixer.weights.convert import convert
from mlp_mixer.weights.seal import SUM

BIRD = Path(__file__).parents[3] / "demo" / "bird.JPEG"
NAMES = (BUNDLED.stem, START)


@pytest.fixture(scope="module", params=NAMES)
def file(request: pytest.FixtureRequest) -> Path:
    """Each of the bundled files."""
    return BUNDLED.with_name(f"{request.param}.safetensors")


@pytest.fixture(scope="module")
def facts(file: Path) -> dict[str, Any]:
    """What the file says of its origin."""
    return read_weights(file).provenance


def square(path: Path, side: int) -> Image.Image:
    """The middle of a photo."""
    image = Image.open(path).convert("RGB")
    left, top = ((length - min(image.size)) // 2 for length in image.size)
    return image.crop(
        (left, top, left + min(image.size), top + min(image.size))
    ).resize((side, side))


def test_each_file_in_the_package_has_its_card() -> None:
    shipped = importlib.resources.files("mlp_mixer.weights") / "bundled"
    expected = {f"{name}{end}" for name in NAMES for end in (".md", ".safetensors")}
    assert {file.name for file in shipped.iterdir()} == expected


def test_the_files_are_small_and_of_half_precision(file: Path) -> None:
    assert file.stat().st_size <= 3_000_000
    with safetensors.safe_open(file, framework="pt") as opened:
        assert {"mlp_mixer"} <= set(opened.metadata()) <= {"mlp_mixer", SUM}
        names = list(opened.keys())
        assert {opened.get_tensor(name).dtype for name in names} == {torch.float16}


def test_its_description_is_complete(file: Path, facts: dict[str, Any]) -> None:
    stored = read_weights(file)
    record = CATALOG[file.stem]
    assert stored.labels is not None
    assert (
        len(stored.labels)
        == len(set(stored.labels))
        == stored.config.num_classes
        == record.num_classes
    )
    assert facts["name"] == record.name
    assert facts["licence"] == record.licence
    assert "Tiny Images" in facts["licence_note"]
    assert facts["trained_on"].startswith(record.trained_on.partition(";")[0])
    assert facts["command"].startswith(f"mlp-mixer train {facts['recipe']} ")
    assert re.fullmatch("[0-9a-f]{7,40}", facts["commit"])
    assert isinstance(facts["seed"], int)
    assert facts["epochs"] > 0
    assert facts["data"]["source"].startswith(("cifar10", "npz:"))
    assert 0 < facts["data"]["n_train"] <= 100_000
    assert facts["measured"]["split"] == "test"
    assert 0.1 < facts["measured"]["top1"] < 1
    assert "/" not in json.dumps(
        facts | {"command": "", "licence_note": "", "seen": ""}
    )  # nobody's folders


def test_its_name_is_that_of_its_architecture(
    file: Path, facts: dict[str, Any]
) -> None:
    stored = read_weights(file)
    architecture = CATALOG[file.stem].architecture
    assert facts["model"] == architecture
    assert architecture in VARIANTS
    numbers = sum(tensor.numel() for tensor in stored.tensors.values())
    assert (
        numbers
        == cost(stored.config).params
        == sum(p.numel() for p in MlpMixer(stored.config).parameters())
    )


def test_the_card_says_what_the_file_says(file: Path, facts: dict[str, Any]) -> None:
    stored = read_weights(file)
    assert stored.labels is not None
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    assert all(label in card for label in stored.labels)
    (stated,) = re.findall(r"<!-- accuracy -->([\d.]+) %", card)
    assert stated == f"{100 * facts['measured']['top1']:.2f}"
    (commands,) = re.findall(r"^```bash\n(.*?)^```$", card, flags=re.M | re.S)
    train, make, check = (
        shlex.split(line) for line in commands.replace("\\\n", " ").splitlines()
    )
    assert train == shlex.split(facts["command"])
    about = json.loads(make[make.index("--about") + 1])
    assert {"licence", "commit", "command", "measured"} <= set(about)
    assert {key: facts[key] for key in about} == about
    assert make[3] == check[2] == file.name


def test_its_bytes_are_made_by_convert_and_always_the_same(
    file: Path, facts: dict[str, Any], tmp_path: Path
) -> None:
    """As the card says: to fp16, with more facts; and once more from the result."""
    wide = convert(file, tmp_path / "wide.safetensors", "native", dtype="fp32").path
    assert wide.stat().st_size > 1.8 * file.stat().st_size
    again = convert(
        wide, tmp_path / "again.safetensors", "native", dtype="fp16", about=facts
    ).path
    same = convert(file, tmp_path / "same.safetensors", "native").path
    assert again.read_bytes() == same.read_bytes()
    # The file is older than check sums.
    stored, before = read_weights(same), read_weights(file)
    assert stored.provenance == before.provenance
    for name, tensor in before.tensors.items():
        assert torch.equal(stored.tensors[name], tensor)
    more = convert(
        file,
        tmp_path / "more.safetensors",
        "native",
        about={"licence": "MIT", "extra": 1},
    ).path
    assert read_weights(more).provenance == facts | {"licence": "MIT", "extra": 1}


@torch.inference_mode()
def test_it_computes_in_fp32_and_finitely(file: Path) -> None:
    model = load(file.stem).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    for x in (
        torch.zeros(1, 3, *model.config.image_size),
        1e3 * torch.randn(8, 3, *model.config.image_size),
    ):
        assert model(x).isfinite().all()


def test_it_is_what_answers_where_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list_models(weights=True)[0] == BUNDLED.stem
    assert inspect.signature(Predictor).parameters["checkpoint"].default == BUNDLED
    monkeypatch.chdir(tmp_path)
    (
        tmp_path / BUNDLED.stem
    ).mkdir()  # a folder of that name is not meant, where no name was given
    answer = Predictor(engine="torch")(BIRD)
    (tmp_path / BUNDLED.stem).rmdir()
    assert answer == Predictor(load(BUNDLED.stem), engine="torch")(BIRD)
    assert answer.pred_class in (load(BUNDLED).labels or ())
    assert inference_model(BUNDLED.stem, BIRD)["pred_score"] == pytest.approx(
        answer.pred_score, abs=1e-6
    )


def test_photos_are_scaled_to_its_size(tmp_path: Path) -> None:
    """The same logits as for a picture that Pillow made as small beforehand."""
    predictor = Predictor(engine="torch")
    (side, _) = predictor.model.config.image_size
    photo = square(BIRD, 224)
    photo.save(tmp_path / "photo.png")
    assert predictor.checkpoint.preprocess.crop_pct == 1
    small = np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC))
    expected = inference_model(predictor, small)["pred_scores"]
    np.testing.assert_allclose(
        inference_model(predictor, tmp_path / "photo.png")["pred_scores"],
        expected,
        atol=1e-6,
    )
    assert (
        np.abs(
            inference_model(predictor, small[:, ::-1].copy())["pred_scores"] - expected
        ).max()
        > 1e-4
    )


def test_it_is_as_good_as_it_says(shared: Path) -> None:
    """Within 4 points of its top-1 on 500 test images; scaled up, they mean the same."""
    predictor = Predictor(engine="torch")
    images = []
    right = []
    for name in predictor.labels:
        with Image.open(
            shared / "data" / "cifar10" / "test" / name / "sheet_00.webp"
        ) as sheet:  # of 10 x 10 images
            tiles = (
                np.asarray(sheet.convert("RGB"))
                .reshape(10, 32, 10, 32, 3)
                .swapaxes(1, 2)
                .reshape(100, 32, 32, 3)
            )
        images += list(tiles[:50])
        right += [name] * 50
    large = [
        Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
        for image in images[::10]
    ]
    answers = np.array(
        [
            getattr(answer, "pred_class", "")
            for answer in predictor.predict([*images, *large])
        ]
    )
    stated = predictor.checkpoint.provenance["measured"]["top1"]
    assert abs((answers[:500] == right).mean() - stated) < 0.04
    assert (answers[:500:10] == answers[500:]).mean() > 0.8


def test_a_photo_is_answered_without_any_network_from_anywhere(tmp_path: Path) -> None:
    square(BIRD, 224).save(tmp_path / "photo.jpg")
    program = """
import os, sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        os.write(2, f"NETWORK {event} {arguments}".encode())
        os._exit(99)
sys.addaudithook(guard)
from mlp_mixer.cli import run
sys.exit(run(["predict", "photo.jpg"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    labels = load(BUNDLED).labels or ()
    assert any(label in done.stdout.splitlines()[1] for label in labels)
    assert ", ".join(labels) in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "photo.jpg"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"dtype": "fp8"}, "unknown dtype 'fp8'"),
        ({"dtype": "fp16"}, "as fp16 holds NaN or infinite values in 1 of"),
    ],
)
def test_what_has_no_place_in_a_dtype_is_refused(
    tmp_path: Path, more: dict[str, Any], sentence: str
) -> None:
    model = load(BUNDLED).model
    with torch.no_grad():
        model.head.bias[0] = 1e5
    source = mlp_mixer.save(tmp_path / "large.safetensors", model)
    with pytest.raises(mlp_mixer.UserError, match=sentence):
        convert(source, tmp_path / "out.safetensors", "native", **more)
    assert not (tmp_path / "out.safetensors").exists()
