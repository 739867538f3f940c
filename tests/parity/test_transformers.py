"""transformers gives this package's answers for a folder of ours, without a network."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    TimmWrapperForImageClassification,
    pipeline,
)

from mlp_mixer import (
    Checkpoint,
    MlpMixer,
    Predictor,
    Preprocess,
    from_pretrained,
    load,
    save_pretrained,
)
from mlp_mixer.compat import timm_models
from mlp_mixer.models import model_config

from ..unit.weights.closeness import assert_same_function


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    timm_models.register()


@pytest.fixture
def photo(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A real one where the test data is, else waves of colour."""
    try:
        return (
            request.getfixturevalue("shared")
            / "data"
            / "photos"
            / "mmpretrain_demo"
            / "dog.jpg"
        )
    except pytest.skip.Exception:
        wave = np.sin(
            np.arange(150)[:, None, None] / (5, 9, 14)
            + np.arange(200)[None, :, None] / (11, 7, 4)
        )
        Image.fromarray((127 + 120 * wave).astype(np.uint8)).save(
            path := tmp_path / "waves.png"
        )
        return path


def mixer(name: str = "mixer_nano4", **fields: Any) -> Checkpoint:
    """With erf GELU and answers that differ from class to class."""
    model = MlpMixer(
        model_config(name, **({"gelu": "erf", "num_classes": 6} | fields))
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    if isinstance(model.head, torch.nn.Linear):
        torch.nn.init.normal_(model.head.weight)
    preprocess = Preprocess(
        model.config.image_size,
        crop_pct=0.8,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
    )
    labels = tuple(f"kind {number}" for number in range(model.num_classes)) or None
    return Checkpoint(model, preprocess, labels)


@pytest.mark.parametrize(
    ("name", "fields", "head"),
    [
        (
            "mixer_s32",
            {"image_size": (64, 64)},
            "softmax",
        ),  # nothing of ours is needed for it
        ("mixer_nano4", {}, "softmax"),
        ("mixer_nano4", {"tokens_mlp_dim": 49}, "sigmoid"),
    ],
)
def test_the_pipeline_gives_our_answers(
    name: str, fields: dict[str, Any], head: str, photo: Path, tmp_path: Path
) -> None:
    checkpoint = mixer(name, **fields)
    checkpoint.provenance["head"] = head
    folder = save_pretrained(checkpoint, tmp_path / "folder")
    classify = pipeline("image-classification", model=str(folder))
    assert isinstance(classify.model, TimmWrapperForImageClassification)
    theirs = classify(str(photo), top_k=6)
    ours = Predictor(checkpoint, top=6)(str(photo)).top
    assert [answer["label"] for answer in theirs] == [
        candidate.name for candidate in ours
    ]
    scores = [answer["score"] for answer in theirs]
    assert scores == pytest.approx([candidate.score for candidate in ours], abs=5e-6)
    assert ours[0].score > 1.5 / 6, "all alike would prove nothing"


@torch.inference_mode()
def test_model_and_processor_give_the_same_numbers(photo: Path, tmp_path: Path) -> None:
    checkpoint = mixer(image_size=(32, 64))
    folder = save_pretrained(checkpoint, tmp_path)
    with Image.open(photo) as image:
        pixels = AutoImageProcessor.from_pretrained(folder)(image)["pixel_values"]
        exact = checkpoint.preprocess(np.asarray(image))
    assert pixels.shape[1:] == exact.shape
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert_same_function(checkpoint.model, model, pixels, attrgetter("logits"))
    assert model.config.id2label == dict(enumerate(checkpoint.labels or ()))


@torch.inference_mode()
def test_a_network_without_classes_gives_its_features(tmp_path: Path) -> None:
    checkpoint = mixer(num_classes=0)
    model = AutoModel.from_pretrained(save_pretrained(checkpoint, tmp_path)).eval()
    image = torch.randn(2, 3, 32, 32)
    assert_same_function(checkpoint.model, model, image, attrgetter("pooler_output"))


@torch.inference_mode()
def test_what_transformers_saves_is_read_here(tmp_path: Path) -> None:
    """Our description, which transformers keeps, is not of these weights any more.

    Where a folder names its classes, transformers 5 saves those names again, even for
        other classes: so none here.
    """
    named = mixer()
    checkpoint = Checkpoint(
        named.model, named.preprocess, provenance={"measured": {"top1": 0.9}}
    )
    folder = save_pretrained(checkpoint, tmp_path / "ours")
    names = {
        "num_labels": 2,
        "id2label": {0: "yes", 1: "no"},
        "label2id": {"yes": 0, "no": 1},
    }
    tuned = TimmWrapperForImageClassification.from_pretrained(
        folder, ignore_mismatched_sizes=True, **names
    ).eval()
    torch.nn.init.normal_(tuned.timm_model.head.weight)
    for shard in ("1GB", "1MB"):
        saved = tmp_path / f"theirs {shard}"
        tuned.save_pretrained(saved, max_shard_size=shard)
        assert (saved / "model.safetensors.index.json").exists() == (shard == "1MB")
        assert "mlp_mixer" in json.loads((saved / "config.json").read_text())
        back = from_pretrained(saved)
        image = torch.randn(2, 3, 32, 32)
        assert_same_function(back.model, tuned, image, attrgetter("logits"))
        assert back.labels == ("yes", "no")
        assert back.preprocess == checkpoint.preprocess
        assert "measured" not in back.provenance
        assert (back.model.config.gelu, back.model.config.norm_eps) == ("erf", 1e-6)


def test_the_wrappers_prefix_is_no_part_of_a_name(tmp_path: Path) -> None:
    """transformers 5 takes it off when it saves, older versions did not."""
    checkpoint = mixer()
    folder = save_pretrained(checkpoint, tmp_path)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(described | {"transformers_version": "4.52.0"})
    )
    tensors = checkpoint.model.state_dict()
    save_file(
        {f"timm_model.{name}": tensor for name, tensor in tensors.items()},
        folder / "model.safetensors",
    )
    back = load(folder)
    assert all(
        torch.equal(tensor, tensors[name])
        for name, tensor in back.model.state_dict().items()
    )
    assert (back.labels, back.preprocess) == (checkpoint.labels, checkpoint.preprocess)


def test_labels_by_number(tmp_path: Path) -> None:
    """transformers writes `id2label` for models of its own; "10" comes after "9"."""
    checkpoint = mixer("mixer_pico2", num_classes=11)
    folder = save_pretrained(checkpoint, tmp_path)
    described = json.loads((folder / "config.json").read_text())
    del described["mlp_mixer"], described["label_names"]
    described["id2label"] = {
        str(number): f"name {number}" for number in reversed(range(11))
    }
    (folder / "config.json").write_text(json.dumps(described))
    assert load(folder).labels == tuple(f"name {number}" for number in range(11))


def test_a_folder_without_architecture_is_no_resnet(tmp_path: Path) -> None:
    """Any `pretrained_cfg` counts as timm's there, no architecture as a ResNet-50."""
    folder = save_pretrained(mixer(gelu="tanh"), tmp_path)
    with pytest.raises(ValueError, match="Unrecognized model"):
        AutoConfig.from_pretrained(folder)
