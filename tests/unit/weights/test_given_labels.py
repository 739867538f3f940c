"""Names of classes beside weights, and those that a person gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from mlp_mixer import Checkpoint, Predictor, UserError, create_model, load, save
from mlp_mixer.weights.formats.class_names import class_names, names_of
from mlp_mixer.weights.given_labels import named_classes

NAMES = ("cat", "dog", "eel")
BY_NAME = {"dog": 1, "eel": 2, "cat": 0}


def model(classes: int = 3) -> Any:
    return create_model("mixer_pico2", num_blocks=1, num_classes=classes, gelu="erf")


@pytest.mark.parametrize(
    "beside",
    [
        {"classes": list(NAMES)},
        {"class_names": NAMES},
        {"CLASSES": NAMES},
        {"class_to_idx": BY_NAME},
        {"label2id": BY_NAME},
        {"id2label": {"1": "dog", "2": "eel", "0": "cat"}},
        # Keys that are numbers, in a pickle.
        {"idx_to_class": {1: "dog", 2: "eel", 0: "cat"}},
        # transformers' dict the wrong way round.
        {"id2label": BY_NAME},
        {"hyper_parameters": {"lr": 0.1, "class_to_idx": BY_NAME}},
        {"meta": {"dataset_meta": {"classes": NAMES}}},
        {"classes": 3, "label2id": BY_NAME},
    ],
)
def test_names_beside_a_state_dict_are_read(
    tmp_path: Path, beside: dict[str, Any]
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "state_dict": model().state_dict(), **beside}, path)
    assert load(path).labels == NAMES


def test_names_in_the_metadata_of_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    metadata = {"format": "pt", "class_to_idx": json.dumps(BY_NAME)}
    safetensors.torch.save_file(model().state_dict(), path, metadata)
    assert load(path).labels == NAMES


@pytest.mark.parametrize(
    "value",
    [
        3,
        "abc",
        None,
        [],
        {},
        {"cat": 0, "dog": 2},
        {"cat": 0, "dog": 0},
        {"cat": 0, "dog": "1"},
        {"0": "cat", "2": "dog"},
        {"0": ["cat"], "1": "dog"},
        [["cat"], "dog"],
        torch.zeros(3),
    ],
)
def test_what_is_no_list_of_names_is_passed_over(value: Any) -> None:
    assert names_of(value) is None
    assert class_names({"classes": value}) is None


def test_folders_with_numbers_for_names_keep_the_order_of_image_folder() -> None:
    assert names_of({"1": 0, "10": 1, "2": 2}) == ["1", "10", "2"]


def test_a_dict_that_contains_itself_ends() -> None:
    loop: dict[str, Any] = {}
    loop["meta"] = loop
    assert class_names(loop) is None


def test_names_of_another_number_of_classes_are_left_out_and_said(
    tmp_path: Path,
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": model().state_dict(), "classes": [*NAMES, "x"]}, path)
    loaded = load(path)
    assert loaded.labels is None
    assert loaded.provenance["labels"] == "left out: 4 names for 3 classes"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "cat\ndog\neel\n"),
        ("labels", "cat\r\ndog\r\neel\r\n\r\n"),
        ("bom.txt", "\ufeffcat\ndog\neel"),
        ("numbered.txt", "0 cat\n1 dog\n2 eel\n"),
        ("numbered.csv", "0,cat\n1,dog\n2,eel\n"),
        ("list.json", '["cat", "dog", "eel"]'),
        ("by_name.json", json.dumps(BY_NAME)),
        ("by_number.json", '{"0": "cat", "1": "dog", "2": "eel"}'),
        ("config.json", json.dumps({"model_type": "x", "label2id": BY_NAME})),
    ],
)
def test_a_file_of_names(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert named_classes(path, 3) == NAMES
    assert named_classes(str(path), 3) == NAMES


@pytest.mark.parametrize(
    "given",
    [
        "cat,dog, eel",
        list(NAMES),
        np.array(NAMES),
        BY_NAME,
        {"cat": np.int64(0), "dog": np.int64(1), "eel": np.int64(2)},
        {0: "cat", 1: "dog", 2: "eel"},
    ],
)
def test_names_without_a_file(given: Any) -> None:
    assert named_classes(given, 3) == NAMES


def test_numbers_that_are_not_those_of_the_lines_belong_to_the_names(
    tmp_path: Path,
) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("1 euro\n2 euro\n5 euro\n")
    assert named_classes(path, 3) == ("1 euro", "2 euro", "5 euro")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cat,dog", "2 names for 3 classes"),
        ("labels", r"1 name for 3 classes.*there is none at 'labels'"),
        ("labels.txt", "no file of labels at 'labels.txt'"),
        (Path("labels"), "no file of labels"),
        ("cat,,eel", "empty name for class 1"),
        ({"cat": 0, "dog": 2, "eel": 3}, "without a gap"),
        ([1.5, "b", "c"], "a label is 1.5"),
        (7, "expected a list of names"),
    ],
)
def test_what_does_not_fit_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        named_classes(given, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xe9t\xe9\nb\nc", "no UTF-8"),
        (b"[1, 2", "no JSON"),
        (b'{"a": {}}', "no names that can be read"),
        (b"a\n\nb", "empty name for class 1"),
        (b"", "0 names for 3"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        named_classes(path, 3)


def test_given_names_come_before_those_of_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", model(), labels=["x", "y", "z"])
    loaded = load(path, labels=BY_NAME)
    assert loaded.labels == NAMES
    assert "given" in loaded.provenance["labels"]
    assert load(path).with_labels("a,b,c").labels == ("a", "b", "c")
    assert Predictor(load(path), labels=NAMES).labels == NAMES


@pytest.mark.parametrize("classes", [2, 5])
def test_labels_of_an_old_classifier_are_not_used_for_a_new_one(
    tmp_path: Path, classes: int
) -> None:
    loaded = load(save(tmp_path / "m.safetensors", model(), labels=list(NAMES)))
    loaded.model.reset_classifier(classes)
    with pytest.raises(UserError, match=f"3 labels.*{classes} classes"):
        Predictor(loaded)
    new = Checkpoint(loaded.model, loaded.preprocess)
    assert Predictor(new).labels[-1] == f"class {classes - 1}"
