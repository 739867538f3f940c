"""Weights that are in memory: tensors by name, and open files; and texts for paths."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

import mlp_mixer
from mlp_mixer import UserError, load
from mlp_mixer.weights.formats import hdf5

from .small_files import arrays, same, saved, state


def npz_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays())
    return buffer.getvalue()


FILES = {
    "torch": lambda: saved(state()),
    "legacy": lambda: saved(state(), _use_new_zipfile_serialization=False),
    "safetensors": lambda: save(state(), {"format": "pt"}),
    "npz": npz_bytes,
    "h5": lambda: hdf5.to_bytes(state("keras")),
}


@pytest.mark.parametrize("kind", FILES)
def test_an_open_file_is_read_as_its_path_is(tmp_path: Path, kind: str) -> None:
    data = FILES[kind]()
    path = tmp_path / "weights"
    path.write_bytes(data)
    expected = load(path)
    with path.open("rb") as file:
        opened = load(file)
    assert opened.provenance == expected.provenance
    same(opened, expected.model.state_dict())
    unnamed = load(io.BytesIO(data))
    assert "file" not in unnamed.provenance
    same(unnamed, expected.model.state_dict())


def test_our_own_file_keeps_what_it_says_of_itself(tmp_path: Path) -> None:
    model = mlp_mixer.create_model("mixer_pico2", num_classes=2)
    path = mlp_mixer.save(tmp_path / "m.safetensors", model, labels=["cat", "dog"])
    checkpoint = load(io.BytesIO(path.read_bytes()))
    assert checkpoint.labels == ("cat", "dog")
    assert checkpoint.model.config == model.config


@pytest.mark.parametrize("lineage", ["timm", "google", "lucidrains", "keras"])
def test_tensors_or_arrays_by_name_are_read(lineage: str) -> None:
    checkpoint = load(state(lineage))
    assert checkpoint.provenance["container"] == "memory"
    assert checkpoint.provenance["lineage"] == lineage
    same(load(arrays(lineage)), checkpoint.model.state_dict())


def test_what_is_loaded_from_memory_is_a_copy() -> None:
    given = {name: torch.nn.Parameter(tensor) for name, tensor in state().items()}
    checkpoint = load(given)
    with torch.no_grad():
        checkpoint.model.head.weight.zero_()
    assert all(torch.equal(given[name], tensor) for name, tensor in state().items())
    array = arrays("timm")
    load(array).model.head.weight.data.zero_()
    np.testing.assert_array_equal(array["head.weight"], state()["head.weight"])


class Text:
    def read(self) -> str:
        return "weights"


WRONG: dict[str, tuple[Any, str]] = {
    "a network": (torch.nn.Linear(2, 2), r"got a network \(Linear\).* its state_dict"),
    "nothing": (None, "got NoneType, expected a path, a name, tensors by name"),
    "a number": (3, "got int, expected a path"),
    "a list": ([state()], "got list, expected a path"),
    "bytes": (b"\x80", "got bytes, .* into io.BytesIO"),
    "an empty dict": ({}, r"holds no tensors \(it is empty\)"),
    "a dict of numbers": ({"a": 1, 2: 3}, r"holds no tensors \('a', '2'\)"),
    "an empty file": (io.BytesIO(), "has no bytes from where it stands.* seek"),
    "text": (Text(), "gives str: open it in binary mode"),
    "no weights": (io.BytesIO(b"hello"), "the open file is no file of weights"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, "'a' is a sparse, quantised or empty"),
    "half a network": ({"blocks.0.mlp_tokens.fc1.bias": torch.ones(2)}, "missing stem"),
    "a long name": (state() | {"x" * 5000: torch.ones(1)}, "as no model does"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_loaded_is_one_sentence(name: str) -> None:
    given, message = WRONG[name]
    with pytest.raises(UserError, match=message) as caught:
        load(given)
    assert str(caught.value).isprintable()


def test_a_file_open_for_writing_or_closed_is_one_sentence(tmp_path: Path) -> None:
    file = (tmp_path / "w").open("wb")
    with pytest.raises(UserError, match="open file 'w' cannot be read .*binary mode"):
        load(file)
    file.close()
    with pytest.raises(UserError, match="cannot be read"):
        load(file)


def test_texts_for_paths_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = folder / "w.pth"
    torch.save(state(), path)
    torch.save(state(), folder / "pytorch_model.bin")
    for text in ("~/a folder/w.pth", path.as_uri(), f"file://localhost{path}"):
        checkpoint = load(text)
        same(checkpoint, state())
        # Provenance is passed on, and folders are nobody's business.
        assert checkpoint.provenance["file"] == "w.pth"
    for text in (f"local-dir:{folder}", "local-dir:~/a folder", "~/a folder"):
        same(load(text), state())
    with pytest.raises(UserError, match="is a file of another machine"):
        load("file://server/share/w.pth")
    for text in (
        "~/none.pth",
        "file:///none.pth",
        "local-dir:none",
        "~\0",
        "file://[x",
    ):
        with pytest.raises(UserError, match="no checkpoint at"):
            load(text)


FOLDERS = {
    "__0_0.distcp": "format_utils dcp_to_torch",
    "zero_to_fp32.py": "zero_to_fp32.py . weights.pt",
    "mp_rank_00_model_states.pt": "give its file mp_rank_00",
    "saved_model.pb": "SavedModel of TensorFlow",
    "_CHECKPOINT_METADATA": "a checkpoint of Orbax",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_other_programs_are_named_with_what_to_do(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / ".metadata").touch()
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=FOLDERS[name]):
        load(tmp_path)
    if name.endswith(".distcp"):
        with pytest.raises(
            UserError, match="distributed checkpoint .* give its folder"
        ):
            load(tmp_path / name)


def test_timms_keyword_names_the_call_that_gives_weights() -> None:
    with pytest.raises(UserError, match=r"`load\('mixer_b16'\)`"):
        mlp_mixer.create_model("mixer_b16", pretrained=True)
    assert mlp_mixer.create_model("mixer_pico2", pretrained=False).num_classes == 1000
