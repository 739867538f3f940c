"""The native file: round trips, strictness, old versions, hostile bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import mlp_mixer
from mlp_mixer import Preprocess, UserError, create_model, load, save
from mlp_mixer.weights import read_weights

from .closeness import assert_same_network, in_float64

DATA = Path(__file__).parents[2] / "data"
SMALL = {"num_blocks": 1, "hidden_dim": 8, "tokens_mlp_dim": 4, "channels_mlp_dim": 16}


def model(**fields: Any) -> mlp_mixer.MlpMixer:
    """A small Mixer with no parameter at its initial zero."""
    made = create_model("mixer_nano4", **{"num_classes": 3, **SMALL, **fields})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gelu": "erf", "norm_eps": 1e-5, "final_norm": False},
        {"num_classes": 0},
        {
            "in_channels": 1,
            "image_size": (8, 20),
            "dropout": 0.1,
            "drop_path": 0.2,
            "drop_path_rule": "timm",
        },
    ],
)
def test_round_trip_is_the_identity(tmp_path: Path, fields: dict[str, Any]) -> None:
    original = model(**fields)
    channels = original.config.in_channels
    preprocess = Preprocess(
        original.config.image_size,
        channels=channels,
        crop_pct=0.5,
        mean=(0.1,),
        std=(0.2,),
    )
    labels = ["cat", "dög", "<b>"] if original.config.num_classes else None
    path = save(
        tmp_path / "m.safetensors",
        original,
        preprocess=preprocess,
        labels=labels,
        provenance={"a": [1, None]},
    )
    loaded = load(path)
    assert loaded.model.config == original.config
    assert loaded.preprocess == preprocess
    assert loaded.labels == (tuple(labels) if labels else None)
    assert loaded.provenance == {"a": [1, None]}
    assert_same_network(loaded.model, original)


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    original = model()
    first = save(
        tmp_path / "a.safetensors", original, labels=["x", "y", "z"]
    ).read_bytes()
    second = save(
        tmp_path / "b.safetensors",
        load(tmp_path / "a.safetensors").model,
        labels=["x", "y", "z"],
    ).read_bytes()
    assert first == second


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes_are_kept_in_the_file_and_used_in_fp32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    original = model().to(dtype)
    path = save(tmp_path / "m.safetensors", original)
    assert {tensor.dtype for tensor in read_weights(path).tensors.values()} == {dtype}
    for name, tensor in load(path).model.state_dict().items():
        assert torch.equal(tensor, original.state_dict()[name].float())


def test_the_default_preprocessing_is_the_papers(tmp_path: Path) -> None:
    preprocess = load(save(tmp_path / "m.safetensors", model())).preprocess
    black_and_white = preprocess.normalize(
        torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2)
    )
    assert black_and_white[0, 0, 0].tolist() == [-1, 1]


def test_version_1_stays_readable() -> None:
    loaded = load(DATA / "checkpoint_v1.safetensors")
    config = loaded.model.config
    assert (config.image_size, config.in_channels, config.gelu, config.norm_eps) == (
        (4, 6),
        2,
        "erf",
        1e-5,
    )
    assert loaded.labels == ("a", "b", "ü")
    assert loaded.preprocess.mean == (0.1, 0.2)
    assert loaded.provenance["note"] == "tiny, random, for ever"
    image = torch.arange(2 * 2 * 4 * 6).reshape(2, 2, 4, 6).to(torch.uint8)
    expected = torch.tensor(
        json.loads((DATA / "checkpoint_v1.json").read_text())["logits"]
    )
    logits = in_float64(loaded.model)(loaded.preprocess.normalize(image))
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=1e-6)


def test_timm_reads_the_names(tmp_path: Path) -> None:
    """An erf model needs no conversion: its names are timm's."""
    names = set(safetensors.torch.load_file(save(tmp_path / "m.safetensors", model())))
    mlp = {
        f"blocks.0.{m}.{fc}.{p}"
        for m in ("mlp_tokens", "mlp_channels")
        for fc in ("fc1", "fc2")
        for p in ("weight", "bias")
    }
    norms = {
        f"{n}.{p}"
        for n in ("blocks.0.norm1", "blocks.0.norm2", "norm", "head", "stem.proj")
        for p in ("weight", "bias")
    }
    assert names == mlp | norms


def test_a_failed_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "m.safetensors", model())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        UserError,
        match=r"cannot write .*m.safetensors.*No space left on device; free some space",
    ):
        save(path, model())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_labels_must_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 labels for 3 classes: expected one each"):
        save(tmp_path / "m.safetensors", model(), labels=["a", "b"])


def rewrite(path: Path, change: Any) -> Path:
    """Apply `change(tensors, header)` to a native file."""
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["mlp_mixer"])
    tensors = safetensors.torch.load_file(path)
    change(tensors, header)
    path.write_bytes(safetensors.torch.save(tensors, {"mlp_mixer": json.dumps(header)}))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t, h: t.pop("head.bias"),
            "does not fit its architecture: missing head.bias",
        ),
        (lambda t, h: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            lambda t, h: t.update({"head.bias": torch.zeros(4)}),
            r"head.bias is \(4,\), expected \(3,\)",
        ),
        (
            lambda t, h: h.update(format_version=2),
            "format 2, this version of mlp-mixer reads up to 1; update this package",
        ),
        (
            lambda t, h: h["config"].update(patch_size=5),
            "not divisible by the patch size 5",
        ),
        (
            lambda t, h: h["config"].update(patchsize=5),
            "m.safetensors.*unknown field 'config.patchsize'; did you mean",
        ),
        (
            lambda t, h: h.pop("config"),
            "m.safetensors' has a broken description: Header lacks the fields config",
        ),
        (lambda t, h: h.update(labels=["only one"]), "1 labels for 3 classes"),
        (lambda t, h: h["preprocess"].update(std=[0.0]), "std"),
    ],
)
def test_what_does_not_fit_is_listed(tmp_path: Path, change: Any, message: str) -> None:
    path = rewrite(save(tmp_path / "m.safetensors", model()), change)
    with pytest.raises(UserError, match=message):
        load(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"<html>not found</html>",
        lambda data: data[:-7],
        lambda data: data[:100],
        lambda data: struct.pack("<Q", 1 << 62) + data[8:],
        lambda data: b"\x80\x04" + data,
    ],
)
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, damage: Any) -> None:
    path = save(tmp_path / "m.safetensors", model())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        UserError,
        match=r"m.safetensors.* (is|or its beginning is) (damaged|empty|a web page)",
    ) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_foreign_and_missing_files(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(safetensors.torch.save({"w": torch.zeros(2)}))
    with pytest.raises(UserError, match="no MLP-Mixer checkpoint of any known lineage"):
        load(foreign)
    with pytest.raises(UserError, match="no checkpoint at .*nowhere"):
        load(tmp_path / "nowhere.safetensors")
    with pytest.raises(UserError, match="holds no best.safetensors"):
        load(tmp_path)


def test_a_run_folder_means_its_best_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "best.safetensors", model(), provenance={"which": "best"})
    assert load(tmp_path).provenance == {"which": "best"}
