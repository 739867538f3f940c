"""The model card says what is recorded and measured, and its examples run."""

from __future__ import annotations

import dataclasses
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants

from mlp_mixer import Checkpoint, Preprocess, create_model, save_pretrained
from mlp_mixer.weights.catalog import CATALOG

from .samples import TRAINED, mixer


def card(folder: Path, *arguments: Any, **fields: Any) -> tuple[dict[str, Any], str]:
    """The card of a checkpoint with that provenance: metadata as the hub reads it, text."""
    text = (
        save_pretrained(mixer(*arguments, **fields), folder) / "README.md"
    ).read_text()
    return ModelCard(text).data.to_dict(), text


def test_the_card_of_a_trained_model(tmp_path: Path) -> None:
    metadata, text = card(tmp_path, TRAINED)
    assert metadata == {
        "library_name": "mlp-mixer",
        "pipeline_tag": "image-classification",
        "tags": ["mlp-mixer", "image-classification", "arxiv:2105.01601"],
        "model-index": [
            {
                "name": "mixer_pico2 on digits",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": "digits", "type": "digits", "split": "val"},
                        "metrics": [{"type": "accuracy", "value": 0.9321}],
                    }
                ],
            }
        ],
    }
    for line in (
        "# mixer_pico2 on digits",
        "| Architecture | 4 blocks of 64 channels on 16 patches of 2 x 2 pixels |",
        "| Hidden widths | 32 across patches, 256 across channels |",
        "| Parameters | 138,819, stored as float32 |",
        "| Input | 3 channels of 8 x 8 pixels (height x width) |",
        "| Classes | 3 |",
        "| Scores | softmax: the classes compete |",
        "| Trained on | digits |",
        "| Licence | not stated |",
        "| top-1 accuracy | 93.2 % (134 of 144; 95 % interval 87.9 to 96.3 %) |",
        "| images | 144 |",
        "In the order of the output: 0 cat, 1 dög\\|fish, 2 &lt;b&gt;owl&lt;/b&gt;.",
        "| seed | 3 |",
        "| data | source: digits; fingerprint: abc; n_train: 1200; val_fraction: 0.1 |",
    ):
        assert line in text.splitlines()
    assert "which also chose this checkpoint" in text
    assert "not as opencv does" in text
    assert "the paper |" not in text


def test_the_card_of_published_weights(tmp_path: Path) -> None:
    record = CATALOG["mixer_b16.goog_in1k"]
    origin = {
        "name": record.name,
        "licence": "Apache-2.0",
        "trained_on": "ImageNet-1k; x",
        "source": record.url,
    }
    metadata, text = card(tmp_path, origin | {"head": "sigmoid"}, gelu="tanh")
    assert metadata["license"] == "apache-2.0"
    assert "model-index" not in metadata, "published is not measured"
    assert f"| Row of the paper | {record.paper_row} |" in text
    source = "according to arXiv 2105.01601, Table 3"
    row = f"| Published accuracy | 76.44 % top-1 on ImageNet-1k, {source} |"
    assert row in text
    assert "| Scores | sigmoid: one yes or no per class |" in text
    assert "| Trained on | ImageNet-1k; x |" in text
    assert "## Measured" not in text
    assert f"| source | {record.url} |" in text


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("unknown", {"license": "unknown"}),
        ("MIT", {"license": "mit"}),
        ("My own: (c) 2026", {"license": "other", "license_name": "my-own-c-2026"}),
        (None, {}),
    ],
)
def test_the_licence_is_one_the_hub_knows(
    licence: str | None, expected: dict[str, str], tmp_path: Path
) -> None:
    metadata, _ = card(tmp_path, {"licence": licence} if licence else {})
    assert {
        key: value for key, value in metadata.items() if key.startswith("license")
    } == expected


@pytest.mark.parametrize(
    "origin",
    [
        {"measured": {"top1": "93 %"}, "data": {"source": "digits"}},
        {"measured": {"top1": 0.9}},
        {"measured": 0.9, "data": "digits"},
        {"measured": {"top1": 0.9, "split": "val"}, "data": {}},
        {
            "measured": {"top1": 0.9, "split": "val"},
            "data": {"source": None, "<script>": "<script>"},
        },
        {"measured": {"loss": None}, "data": {"source": "digits"}},
        {"name": "a\n---\n# b | <script>", "licence": 3, "head": "x"},
    ],
)
def test_odd_provenance_makes_no_claims_and_no_mess(
    origin: dict[str, Any], tmp_path: Path
) -> None:
    metadata, text = card(tmp_path, origin)
    assert "model-index" not in metadata
    assert "<script" not in text.split("---", 2)[2]
    assert len(re.findall("^# ", text, flags=re.MULTILINE)) == 1


def test_the_card_of_a_network_without_classes(tmp_path: Path) -> None:
    metadata, text = card(tmp_path, num_classes=0)
    assert metadata["pipeline_tag"] == "image-feature-extraction"
    assert "| Output | 64 pooled features; there is no classifier |" in text
    assert "pipeline(" not in text


def test_many_classes_are_not_listed(tmp_path: Path) -> None:
    few = mixer(num_classes=50)
    many = mixer(num_classes=51)
    for checkpoint, listed in ((few, True), (many, False)):
        named = dataclasses.replace(
            checkpoint,
            labels=tuple(f"kind {i}" for i in range(checkpoint.model.num_classes)),
        )
        assert (
            "## Classes" in (save_pretrained(named, tmp_path) / "README.md").read_text()
        ) == listed


@pytest.mark.parametrize("name", ["mixer_pico2", "mixer_s32"])
@pytest.mark.parametrize("classes", [3, 0])
def test_every_example_of_the_card_runs(
    name: str,
    classes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    Image.new("RGB", (40, 30), "red").save("photo.jpg")
    model = create_model(
        name,
        num_classes=classes,
        gelu="erf",
        image_size=32,
        num_blocks=8 if "32" in name else 4,
    )
    text = (
        save_pretrained(Checkpoint(model, Preprocess((32, 32))), "OWNER/NAME")
        / "README.md"
    ).read_text()
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == (3 if classes else 2)
    assert ("timm_models.register()" in text) == (name == "mixer_pico2")
    for example in examples:
        Path("example.py").write_text(example.replace("hf-hub:", "local-dir:"))
        runpy.run_path("example.py")
    assert capsys.readouterr().out
