"""Predictor: one answer per picture, in order, with the bad ones reported; features by
name; mmpretrain's result.
"""

from __future__ import annotations

import dataclasses
import http.server
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mlp_mixer.inference.predictor
from mlp_mixer import (
    Checkpoint,
    Failure,
    Prediction,
    Predictor,
    Preprocess,
    UserError,
    create_model,
    load,
    save,
)
from mlp_mixer.inference import Features, inference_model


@pytest.fixture
def checkpoint() -> Checkpoint:
    model = create_model(
        "mixer_nano4", num_classes=6, num_blocks=1, hidden_dim=8, image_size=16
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Checkpoint(model, Preprocess((16, 16)), tuple("abcdef"))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return paths


def test_the_answer_is_the_models(checkpoint: Checkpoint, pictures: list[Path]) -> None:
    predictor = Predictor(checkpoint, top=3)
    answer = predictor(pictures[0])
    x = checkpoint.preprocess(np.array(Image.open(pictures[0])))[None]
    expected = checkpoint.model(x).softmax(dim=1)[0]
    assert answer.pred_label == expected.argmax().item()
    assert answer.pred_class == "abcdef"[answer.pred_label]
    assert answer.pred_score == pytest.approx(expected.max().item())
    assert [candidate.score for candidate in answer.top] == pytest.approx(
        expected.topk(3).values.tolist()
    )


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_order_and_failures_survive_batching(
    checkpoint: Checkpoint, pictures: list[Path], batch_size: int
) -> None:
    broken = pictures[0].with_name("broken.jpg")
    broken.write_bytes(b"<html>")
    mixed = [pictures[0], broken, *pictures[1:], "nowhere.png"]
    answers = list(Predictor(checkpoint).predict(mixed, batch_size=batch_size))
    assert [answer.path for answer in answers] == [str(path) for path in mixed]
    assert [type(answer) for answer in answers] == [
        Prediction,
        Failure,
        *[Prediction] * 4,
        Failure,
    ]
    assert isinstance(answers[1], Failure)
    assert "broken.jpg" in answers[1].error


def test_every_kind_of_picture_gives_the_same_answer(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    image = Image.open(pictures[0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    kinds = [pictures[0], str(pictures[0]), image, np.array(image), buffer.getvalue()]
    answers = list(Predictor(checkpoint).predict(kinds))
    scores = {answer.pred_score for answer in answers if isinstance(answer, Prediction)}
    assert len(answers) == 5
    assert len(scores) == 1


def test_nothing_is_read_ahead_of_its_batch(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    def endless() -> object:
        while True:
            yield pictures[0]

    answers = Predictor(checkpoint).predict(endless(), batch_size=2)  # type: ignore[arg-type]
    assert isinstance(next(answers), Prediction)
    assert isinstance(next(answers), Prediction)


def test_what_cannot_answer_says_so(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    predictor = Predictor(checkpoint)
    with pytest.raises(UserError, match="nowhere"):
        predictor("nowhere.png")
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        list(predictor.predict(pictures, batch_size=0))
    with pytest.raises(UserError, match="top must be at least 1, got 0"):
        Predictor(checkpoint, top=0)
    headless = Predictor(
        Checkpoint(
            create_model("mixer_nano4", num_classes=0, num_blocks=1),
            Preprocess((32, 32)),
        )
    )
    for ask in (
        headless,
        lambda picture: headless.predict([picture]),
        lambda picture: inference_model(headless, picture),
    ):
        with pytest.raises(UserError, match=r"has no classifier.*features\(\)"):
            ask(pictures[0])


@pytest.mark.parametrize(
    "what", [5, None, 2.5, "a\0b.png", "", "x" * 5000, ["a.png"]], ids=repr
)
def test_no_kind_of_picture_ends_the_run(
    checkpoint: Checkpoint, pictures: list[Path], what: Any
) -> None:
    answers = list(Predictor(checkpoint).predict([pictures[0], what, pictures[1]]))
    assert [type(answer) for answer in answers] == [Prediction, Failure, Prediction]


def test_half_precision_weights_answer_too(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    checkpoint.model.to(torch.bfloat16)
    assert Predictor(checkpoint)(pictures[0]).pred_score > 1 / 6


# Scores


def test_an_answer_is_json(checkpoint: Checkpoint, pictures: list[Path]) -> None:
    answer = Predictor(checkpoint, top=2)(pictures[0]).to_dict()
    assert json.loads(json.dumps(answer)) == answer | {"top": list(answer["top"])}
    assert answer["score_kind"] == "softmax"


def with_head(checkpoint: Checkpoint, head: str) -> Checkpoint:
    return dataclasses.replace(checkpoint, provenance={"head": head})


def test_a_sigmoid_head_judges_each_class_alone(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    predictor = Predictor(with_head(checkpoint, "sigmoid"), top=6)
    answer = predictor(pictures[0])
    logits = checkpoint.model(
        checkpoint.preprocess(np.array(Image.open(pictures[0])))[None]
    )[0]
    assert answer.score_kind == "sigmoid"
    assert {c.label: c.score for c in answer.top} == pytest.approx(
        dict(enumerate(logits.sigmoid().tolist()))
    )
    scores = inference_model(predictor, pictures[0])["pred_scores"]
    assert scores == pytest.approx(logits.sigmoid().detach().numpy())
    assert scores.sum() != pytest.approx(1, abs=0.01)


def test_classes_whose_sigmoids_round_to_one_keep_their_order(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    head = checkpoint.model.get_classifier()
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([20.0, 21, 40, 30, 25, -5]))
    answer = Predictor(with_head(checkpoint, "sigmoid"), top=6)(pictures[0])
    assert [c.score for c in answer.top[:5]] == [1.0] * 5
    assert [c.label for c in answer.top] == [2, 3, 4, 1, 0, 5]
    assert (
        inference_model(with_head(checkpoint, "sigmoid"), pictures[0])["pred_label"]
        == 2
    )


def test_an_unknown_kind_of_head_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(
        UserError, match="unknown kind of head 'sigmod'; did you mean 'sigmoid'"
    ):
        Predictor(with_head(checkpoint, "sigmod"))


# Folders


@pytest.fixture
def tree(tmp_path: Path, pictures: list[Path]) -> Path:
    """Pictures at three depths, beside what is none."""
    root = tmp_path / "tree"
    for name in (
        "b/deep/1.PNG",
        "b/2.png",
        "b.png",
        "a.png",
        "b/deep/0.png",
        "z/é ü.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(pictures[0].read_bytes())
    for name in (".hidden.png", ".git/x.png", "b/notes.txt", "b/png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no picture")
    return root


def test_a_folder_stands_for_its_pictures(
    checkpoint: Checkpoint, tree: Path, pictures: list[Path]
) -> None:
    names = ["a.png", "b/2.png", "b/deep/0.png", "b/deep/1.PNG", "b.png", "z/é ü.png"]
    expected = [pictures[0], *(tree / name for name in names), pictures[1]]
    for folder in (tree, str(tree)):
        answers = list(
            Predictor(checkpoint).predict(
                [pictures[0], folder, pictures[1]], batch_size=3
            )
        )
        assert [answer.path for answer in answers] == [str(path) for path in expected]
        assert {type(answer) for answer in answers} == {Prediction}


def test_folders_are_read_when_their_turn_comes(
    checkpoint: Checkpoint, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    real = os.listdir

    def listdir(folder: Path) -> list[str]:
        listed.append(folder.name)
        return real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    answers = Predictor(checkpoint).predict([tree, tree / "z"], batch_size=1)
    assert listed == []
    next(answers)
    assert listed == ["tree"]
    next(answers)
    assert listed == ["tree", "b"]


def test_an_empty_and_a_closed_folder_are_failures(
    checkpoint: Checkpoint, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "empty").mkdir()
    real = os.listdir

    def listdir(folder: Path) -> list[str]:
        if folder.name == "deep":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    answers = list(
        Predictor(checkpoint).predict([tree / "empty", tree / "b", tree / "z"])
    )
    assert [type(answer) for answer in answers] == [
        Failure,
        Prediction,
        Failure,
        Prediction,
    ]
    assert [answer.path for answer in answers if isinstance(answer, Failure)] == [
        str(tree / "empty"),
        str(tree / "b" / "deep"),
    ]
    assert isinstance(answers[0], Failure)
    assert "holds no images" in answers[0].error


def test_a_link_back_up_ends(checkpoint: Checkpoint, tree: Path) -> None:
    (tree / "z" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "beside").symlink_to(tree / "z", target_is_directory=True)
    answers = list(Predictor(checkpoint).predict([tree]))
    paths = [Path(answer.path).relative_to(tree).as_posix() for answer in answers]
    assert len(paths) == len(set(paths)) < 20
    assert "beside/é ü.png" in paths


def test_one_answer_means_one_picture(checkpoint: Checkpoint, tree: Path) -> None:
    predictor = Predictor(checkpoint)
    assert predictor(tree / "z").path == str(tree / "z" / "é ü.png")
    for ask in (predictor, lambda folder: inference_model(predictor, folder)):
        with pytest.raises(
            UserError, match=r"tree' holds several images; use predict\(\)"
        ):
            ask(tree)


# The web


@pytest.fixture
def site(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local server: /ok.png, /page (HTML), /large (claims 1 GiB), and 404 for the
    rest.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body, length = {
                "/ok.png?size=1": ("image/png", pictures[0].read_bytes(), None),
                "/page": ("text/html", b"<!doctype html><p>log in", None),
                "/large": ("image/png", b"", 2**30),
            }.get(self.path, ("", b"", None))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header(
                "Content-Length", str(len(body) if length is None else length)
            )
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    for name in (
        "MLP_MIXER_OFFLINE",
        "HF_HUB_OFFLINE",
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_addresses_are_fetched(
    checkpoint: Checkpoint, pictures: list[Path], site: str
) -> None:
    mixed = [
        f"{site}/ok.png?size=1",
        f"{site}/gone.png",
        pictures[0],
        f"{site}/page",
        f"{site}/large",
    ]
    mixed += ["http://127.0.0.1:1/closed.png", "https://", f"{site}/ok.png?size=1"]
    answers = list(Predictor(checkpoint).predict(mixed, batch_size=4))
    assert [answer.path for answer in answers] == [str(address) for address in mixed]
    kinds = [
        Prediction,
        Failure,
        Prediction,
        Failure,
        Failure,
        Failure,
        Failure,
        Prediction,
    ]
    assert [type(answer) for answer in answers] == kinds
    for answer in answers:
        if isinstance(answer, Failure):
            assert answer.path in answer.error
    good = [answer for answer in answers if isinstance(answer, Prediction)]
    assert [answer.pred_score for answer in good] == pytest.approx(
        [good[1].pred_score] * 3
    )
    assert "404" in answers[1].to_dict()["error"]
    assert inference_model(checkpoint, str(mixed[0]))["pred_score"] == pytest.approx(
        good[0].pred_score
    )


# Features


def test_features_are_the_models_own(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    x = torch.stack(
        [checkpoint.preprocess(np.array(Image.open(path))) for path in pictures]
    )
    expected = checkpoint.model.features(x)
    for names in (
        tuple(expected),
        ("pre_logits", "logits"),
        ("norm",),
        ("blocks.0.mlp_tokens",),
    ):
        found = list(Predictor(checkpoint).features(pictures, names))
        assert [features.path for features in found] == [str(path) for path in pictures]
        for i, features in enumerate(found):
            assert isinstance(features, Features)
            assert tuple(features.values) == names
            for name, value in features.values.items():
                assert value.dtype == np.float32
                assert np.array_equal(value, expected[name][i].detach().numpy()), name


def test_features_without_a_head_and_in_half_precision(pictures: list[Path]) -> None:
    model = create_model(
        "mixer_nano4", num_classes=0, num_blocks=2, hidden_dim=8, image_size=16
    ).to(torch.bfloat16)
    predictor = Predictor(Checkpoint(model, Preprocess((16, 16))))
    mixed = ["nowhere.png", pictures[0], b"<html>", pictures[1]]
    found = list(predictor.features(mixed, "pre_logits", batch_size=2))
    assert [type(one) for one in found] == [Failure, Features, Failure, Features]
    assert [one.path for one in found] == [
        "nowhere.png",
        str(pictures[0]),
        "image 2",
        str(pictures[1]),
    ]
    assert isinstance(found[1], Features)
    assert found[1].values["pre_logits"].shape == (8,)
    assert found[1].values["pre_logits"].dtype == np.float32


def test_an_unknown_feature_is_refused_before_any_picture(
    checkpoint: Checkpoint,
) -> None:
    with pytest.raises(
        UserError, match=r"unknown feature 'block\.0'; did you mean 'blocks\.0'"
    ):
        Predictor(checkpoint).features([], ["pre_logits", "block.0"])
    with pytest.raises(
        UserError, match=r"unknown feature 'blocks\.1'"
    ):  # this model has one block
        Predictor(checkpoint).features([], "blocks.1")


# mmpretrain's result


def test_the_result_of_inference_model(
    checkpoint: Checkpoint, pictures: list[Path], tmp_path: Path
) -> None:
    file = save(
        tmp_path / "m.safetensors",
        checkpoint.model,
        preprocess=checkpoint.preprocess,
        labels="abcdef",
    )
    expected = Predictor(checkpoint)(pictures[0])
    for model in (checkpoint, Predictor(checkpoint), file, str(file)):
        answer = inference_model(model, pictures[0])
        assert set(answer) == {"pred_scores", "pred_label", "pred_score", "pred_class"}
        assert [
            type(answer[key]) for key in ("pred_label", "pred_score", "pred_class")
        ] == [int, float, str]
        assert answer["pred_label"] == expected.pred_label
        assert answer["pred_class"] == expected.pred_class
        assert (
            answer["pred_score"] == expected.pred_score == answer["pred_scores"].max()
        )
        assert answer["pred_scores"].shape == (6,)
        assert answer["pred_scores"].dtype == np.float32
        assert answer["pred_scores"].sum() == pytest.approx(1)
    nameless = dataclasses.replace(checkpoint, labels=None)
    assert set(inference_model(nameless, pictures[0])) == {
        "pred_scores",
        "pred_label",
        "pred_score",
    }
    with pytest.raises(UserError, match="nowhere"):
        inference_model(checkpoint, "nowhere.png")


def test_a_model_is_loaded_once_until_its_file_changes(
    checkpoint: Checkpoint,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []

    def counted(source: str) -> Checkpoint:
        loaded.append(Path(source).name)
        return load(source)

    def write(bias: float) -> None:
        head = checkpoint.model.get_classifier()
        assert isinstance(head, torch.nn.Linear)
        torch.nn.init.constant_(head.weight, 0)
        torch.nn.init.constant_(head.bias, 0)
        head.bias.data[3] = bias
        for name in ("run/best.safetensors", "m.safetensors"):
            save(tmp_path / name, checkpoint.model, preprocess=checkpoint.preprocess)

    monkeypatch.setattr(mlp_mixer.inference.predictor, "load", counted)
    write(1)
    for _ in range(3):
        for source in (tmp_path / "run", str(tmp_path / "m.safetensors")):
            assert inference_model(source, pictures[0])["pred_label"] == 3
    assert loaded == ["run", "m.safetensors"]
    write(-1)
    for source in ("run", "m.safetensors"):
        assert inference_model(tmp_path / source, pictures[0])["pred_label"] != 3
    assert loaded == ["run", "m.safetensors"] * 2
    for folder in ("here", "there"):  # one relative name, two files
        labels = [f"{folder} {k}" for k in range(6)]
        save(
            tmp_path / folder / "x.safetensors",
            checkpoint.model,
            preprocess=checkpoint.preprocess,
            labels=labels,
        )
        monkeypatch.chdir(tmp_path / folder)
        assert inference_model("x.safetensors", pictures[0])["pred_class"].startswith(
            folder
        )
