"""What a user names: folders, addresses, lists."""

from __future__ import annotations

import http.server
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlp_mixer import (
    Checkpoint,
    Failure,
    Prediction,
    Predictor,
    UserError,
)
from mlp_mixer.inference import LightPredictor, inference_model
from mlp_mixer.inference.pictures import read_list, skip_answered


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
            UserError, match=r"tree' stands for several images; use predict\(\)"
        ):
            ask(tree)


@pytest.mark.parametrize("pattern", ["tree/*", "tree/b*", "t*", "tree/[bz]"])
def test_a_pattern_of_folders_alone_is_no_silence(
    checkpoint: Checkpoint, tmp_path: Path, tree: Path, pattern: str
) -> None:
    """A quoted "photos/*" over folders of classes answered nothing, with exit code 0."""
    for file in tree.iterdir():
        if file.is_file():
            file.unlink()
    place = str(tmp_path / pattern)
    assert tree.parent == tmp_path
    for predictor in (Predictor(checkpoint), LightPredictor()):
        (answer,) = predictor.predict([place])
        assert isinstance(answer, Failure)
        assert "matches folders and no files" in answer.error
        with pytest.raises(UserError, match="matches folders and no files"):
            predictor(place)
    # The images in them, as the sentence says.
    if pattern == "tree/*":
        answers = list(Predictor(checkpoint).predict([f"{place}/*.png"]))
        assert {type(answer) for answer in answers} == {Prediction}


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


# Lists


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"a.png\nb.png\n", ["a.png", "b.png"]),
        (b"a.png\r\n\r\nb.png", ["a.png", "b.png"]),
        (b"a\nb.png\0c.png\0", ["a\nb.png", "c.png"]),
        (b"only.png", ["only.png"]),
        (b"", []),
        (b"\n\n", []),
        (b"caf\xe9.png\n", [os.fsdecode(b"caf\xe9.png")]),
    ],
)
def test_lists_are_lines_or_end_in_null_bytes(text: bytes, names: list[str]) -> None:
    assert list(read_list(io.BytesIO(text))) == names


def test_a_list_from_a_pipe_is_read_as_it_comes() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as file, os.fdopen(writer, "wb", 0) as pipe:
        found = read_list(file)
        pipe.write(b"a.png\nhal")
        assert next(found) == "a.png"
        pipe.write(b"f.png\n")
        assert next(found) == "half.png"


def test_what_was_answered_is_passed_over() -> None:
    named = [("a", b""), ("b", b""), ("c", b"")]
    assert list(skip_answered(iter(named), ["a", "b"])) == named[2:]
    assert list(skip_answered(iter(named), [])) == named
    for answered, sentence in (
        (["a", "x"], "number 2 was 'x' and is 'b' now"),
        (["a", "b", "c", "d"], "number 4 was 'd' and is 'nothing' now"),
    ):
        with pytest.raises(UserError, match=sentence):
            list(skip_answered(iter(named), answered))


@pytest.mark.parametrize(
    "data", [b"a.png\nb.png\n", b"a.png\r\nb.png", b"a.png\0b.png\0"]
)
@pytest.mark.parametrize("step", [1, 2, 100])
def test_a_list_may_begin_with_a_byte_order_mark(data: bytes, step: int) -> None:
    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return self.read(step)

    assert list(read_list(Pipe(b"\xef\xbb\xbf" + data))) == ["a.png", "b.png"]
    assert list(read_list(Pipe(b"\xef\xbb\xbf"))) == []


def test_brackets_of_a_folder_in_a_pattern(
    checkpoint: Checkpoint, pictures: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "photos [2024]" / "x"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(pictures[0].read_bytes())
    for pattern in ("*/*.png", "**/*.png", "x/?.png"):
        named = str(tmp_path / "photos [2024]" / pattern)
        answers = list(Predictor(checkpoint).predict([named]))
        assert [answer.path for answer in answers] == [str(folder / "1.png")]


def test_heic_in_a_folder_is_a_failure_with_a_reason(
    checkpoint: Checkpoint, pictures: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "phone"
    folder.mkdir()
    (folder / "1.png").write_bytes(pictures[0].read_bytes())
    (folder / "2.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    good, bad = Predictor(checkpoint).predict([folder])
    assert isinstance(good, Prediction)
    assert isinstance(bad, Failure)
    assert bad.path.endswith("2.HEIC")
