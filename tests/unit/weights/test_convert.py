"""Conversions: faithful, or refused with the reason, or forced and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlp_mixer import Preprocess, UserError, create_model, load, save
from mlp_mixer.cli import run
from mlp_mixer.weights.convert import TARGETS, convert
from mlp_mixer.weights.formats import containers

from .closeness import assert_same_network

SMALL = {"num_blocks": 2, "hidden_dim": 8, "tokens_mlp_dim": 4, "channels_mlp_dim": 16}


def native(folder: Path, **fields: Any) -> Path:
    """A small native checkpoint with no parameter at its initial value."""
    model = create_model(
        "mixer_nano4", **{"num_classes": 3, "image_size": 16, **SMALL, **fields}
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    labels = ["cat", "dög", "owl"] if model.num_classes == 3 else None
    preprocess = Preprocess(
        model.config.image_size, channels=model.config.in_channels, crop_pct=0.5
    )
    return save(
        folder / "native.safetensors",
        model,
        labels=labels,
        preprocess=preprocess,
        provenance={"a": 1},
    )


@pytest.mark.parametrize(
    ("to", "fields", "reason"),
    [
        ("timm", {"gelu": "tanh"}, "tanh form of GELU, timm computes erf"),
        ("google", {"gelu": "erf"}, "erf form of GELU, google computes tanh"),
        ("mmpretrain", {"gelu": "erf"}, "epsilon is 1e-06, mmpretrain computes 1e-05"),
        (
            "timm",
            {"gelu": "erf", "final_norm": False},
            "timm has a norm before pooling, they have none",
        ),
        (
            "lavish619",
            {"gelu": "erf", "norm_eps": 1e-5},
            "lavish619 lacks a norm before pooling, they have one",
        ),
        (
            "lavish619",
            {
                "gelu": "erf",
                "norm_eps": 1e-5,
                "final_norm": False,
                "image_size": (16, 8),
            },
            "only square images",
        ),
        (
            "huggingface",
            {"gelu": "erf", "hidden_dim": 9},
            "no entry point for patches of 4, 2 blocks of 9",
        ),
        ("huggingface", {}, "tanh form of GELU"),
    ],
)
def test_what_would_change_results_is_refused_or_forced_and_said(
    to: str,
    fields: dict[str, Any],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = native(tmp_path, **fields)
    suffix = {"google": ".npz", "timm": ".safetensors", "huggingface": ""}.get(
        to, ".pth"
    )
    out = tmp_path / f"out{suffix}"
    with pytest.raises(
        UserError, match=f"would not give the same results: .*{reason}.*--force"
    ):
        convert(source, out, to)
    assert not out.exists()
    assert run(["convert", str(source), str(out), "--to", to, "--force"]) == 0
    assert reason in capsys.readouterr().err
    assert load(out, image_size=fields.get("image_size")).model.config.num_blocks == 2


def test_faithful_conversions_say_nothing_and_keep_the_answers(tmp_path: Path) -> None:
    """tanh: native -> google -> bigvision -> google_prelinen -> native."""
    source = path = native(tmp_path)
    for to, suffix in (
        ("google", ".npz"),
        ("bigvision", ".npz"),
        ("google_prelinen", ".npz"),
        ("native", ".safetensors"),
    ):
        done = convert(path, tmp_path / f"as_{to}{suffix}", to)
        assert not any("not the same" in note for note in done.notes)
        path = done.path
    assert_same_network(load(path).model, load(source).model)


def test_the_stored_dtype_is_kept_on_the_way_and_fp32_in_use(tmp_path: Path) -> None:
    half = save(
        tmp_path / "half.safetensors", load(native(tmp_path)).model.to(torch.bfloat16)
    )
    out = convert(half, tmp_path / "out.npz", "google").path
    assert {str(np.load(out)[name].dtype) for name in np.load(out).files} == {"|V2"}
    assert {tensor.dtype for tensor in containers.read(out).tensors.values()} == {
        torch.bfloat16
    }
    assert {parameter.dtype for parameter in load(out).model.parameters()} == {
        torch.float32
    }


def test_class_names_travel_where_there_is_a_place(tmp_path: Path) -> None:
    source = native(tmp_path, gelu="erf", norm_eps=1e-5)
    done = convert(source, tmp_path / "out.pth", "mmpretrain")
    assert load(done.path).labels == ("cat", "dög", "owl")
    assert [note.split(" stay")[0] for note in done.notes] == [
        "preprocessing and provenance"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["IN", "out.npz", "--to", "timm"],
            "a timm checkpoint is a .safetensors or .pth",
        ),
        (
            ["IN", "out.txt", "--to", "native"],
            "a native checkpoint is a .safetensors file",
        ),
        (["IN", "out.npz", "--to", "gogle"], "did you mean 'google'"),
        (["IN", "IN", "--to", "native"], "is the file to read"),
        (
            ["IN", "there.npz", "--to", "google"],
            "exists; choose another name, or use --overwrite",
        ),
        (["IN", "there", "--to", "huggingface"], "exists; choose another name"),
        (
            ["nowhere.npz", "out.npz", "--to", "google"],
            "no checkpoint at 'nowhere.npz'",
        ),
        (["mixer_b16", "out.npz", "--to", "google"], "an architecture without weights"),
        (
            ["IN", "out.npz", "--to", "google", "--image-size", "big"],
            "expected a side or HxW",
        ),
        (
            ["IN", "out.npz", "--to", "google", "--image-size", "32"],
            "was made for images of 16x16",
        ),
        (
            ["IN", "out.npz", "--to", "google", "--lineage", "klingon"],
            "unknown lineage 'klingon'",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    source = native(tmp_path)
    before = source.read_bytes()
    (tmp_path / "there.npz").write_bytes(b"precious")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "diary.txt").write_text("precious")
    assert (
        run(["convert", *[str(source) if word == "IN" else word for word in arguments]])
        == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert source.read_bytes() == before
    assert (tmp_path / "there.npz").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "native.safetensors",
        "there",
        "there.npz",
    ]


def test_overwrite_replaces(tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    out.write_bytes(b"old")
    assert (
        run(
            [
                "convert",
                str(native(tmp_path)),
                str(out),
                "--to",
                "google",
                "--overwrite",
            ]
        )
        == 0
    )
    assert load(out).model.config.hidden_dim == 8


def test_two_norms_that_differ_cannot_be_one(tmp_path: Path) -> None:
    source = native(
        tmp_path, gelu="erf", final_norm=False, tokens_mlp_dim=16, channels_mlp_dim=16
    )
    with pytest.raises(
        UserError, match="has one tensor .*normalize/vars/0 for .*norm1.* and .*norm2"
    ):
        convert(source, tmp_path / "out.weights.h5", "keras", force=True)


def test_every_target_is_known_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert {
        "google",
        "bigvision",
        "timm",
        "mmpretrain",
        "lavish619",
        "lucidrains",
        "native",
        "huggingface",
    } <= set(TARGETS)
    assert run(["convert", "--help"]) == 0
    assert "--image-size" in capsys.readouterr().out
