"""Files of answers from Python: complete or absent, and continued after a stop."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_mixer import Checkpoint, Failure, Prediction, Predictor, UserError
from mlp_mixer.inference import Features, features_to_file, predict_to_file
from mlp_mixer.inference.answers import Unfinished, identity


@pytest.fixture
def predictor(checkpoint: Checkpoint) -> Predictor:
    return Predictor(checkpoint, engine="torch", device="cpu")


def names(out: Path) -> list[str]:
    """The pictures that a .jsonl file answers."""
    return [json.loads(line)["path"] for line in out.read_text().splitlines()]


def test_answers_go_to_a_file_and_to_the_report(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "answers.jsonl"
    told: list[Prediction | Failure] = []
    mixed = [*pictures, "nowhere.png"]
    written = predict_to_file(predictor, mixed, out, batch_size=2, report=told.append)
    assert (written.out, written.pictures, written.failed) == (out, 6, 1)
    assert [answer.path for answer in told] == [str(path) for path in mixed]
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        json.loads(json.dumps(answer.to_dict())) for answer in told
    ]
    assert [path.name for path in out.parent.iterdir()] == ["answers.jsonl"]


def test_a_stopped_run_continues_where_it_was(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    told: list[str] = []

    def stop(answer: Prediction | Failure) -> None:
        told.append(answer.path)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_file(predictor, pictures, out, report=stop)
    assert not out.exists()
    with pytest.raises(UserError, match="add --resume"):
        predict_to_file(predictor, pictures, out)
    written = predict_to_file(
        predictor,
        pictures,
        out,
        resume=True,
        report=lambda answer: told.append(answer.path),
    )
    # Each picture was answered once, and the file and the counts hold all of them.
    assert told == [str(path) for path in pictures]
    assert names(out) == told
    assert written.pictures == 5


def test_what_was_answered_may_be_asked_at_any_time(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    """Before, between and after new answers: always those of earlier runs."""
    answers = list(predictor.predict(pictures))
    out = tmp_path / "answers.jsonl"
    first = Unfinished(out, identity(predictor), resume=False)
    first.add(answers[0])
    first.add(answers[1])
    assert list(first.answered()) == []
    first.close()

    second = Unfinished(out, identity(predictor), resume=True)
    second.add(answers[2])
    begun = second.answered()
    assert next(begun) == answers[0].path
    second.add(answers[3])
    assert [answers[0].path, *begun] == [answer.path for answer in answers[:2]]
    assert list(second.answered()) == [answer.path for answer in answers[:2]]
    assert second.pictures == 4
    second.add(answers[4])
    second.finish(predictor.top)
    second.close()
    assert names(out) == [answer.path for answer in answers]


@pytest.mark.parametrize("tail", [b"5\n", b"null\n", b'{"path": "half', b"\xff\n"])
def test_a_damaged_end_is_cut_off(
    predictor: Predictor, pictures: list[Path], tmp_path: Path, tail: bytes
) -> None:
    out = tmp_path / "answers.jsonl"
    part = Unfinished(out, identity(predictor), resume=False)
    part.add(next(predictor.predict(pictures)))
    part.close()
    intact = part.path.read_bytes()
    part.path.write_bytes(intact + tail)
    again = Unfinished(out, identity(predictor), resume=True)
    again.close()
    assert (again.pictures, again.failed) == (1, 0)
    assert part.path.read_bytes() == intact


def test_other_weights_do_not_continue(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    part = Unfinished(out, identity(predictor), resume=False)
    part.add(next(predictor.predict(pictures)))
    part.close()
    predictor.model.head.bias.data += 1
    with pytest.raises(UserError, match="begun with other weights or settings"):
        predict_to_file(predictor, pictures, out, resume=True)


def test_a_run_that_did_not_begin_leaves_nothing(
    predictor: Predictor, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        predict_to_file(predictor, ["a.png"], tmp_path / "a.csv", batch_size=0)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_by_one_run_at_a_time(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    """Files beside it may be written meanwhile."""
    out = tmp_path / "a.jsonl"

    def other(answer: Prediction | Failure) -> None:
        beside = tmp_path / "b.jsonl"
        written = predict_to_file(predictor, pictures[:1], beside, overwrite=True)
        assert written.pictures == 1

    assert predict_to_file(predictor, pictures, out, report=other).pictures == 5


def test_features_go_to_a_file(
    predictor: Predictor, pictures: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "features.npz"
    told: list[Features | Failure] = []
    mixed = ["nowhere.png", *pictures]
    written = features_to_file(predictor, mixed, "pre_logits", out, report=told.append)
    assert (written.pictures, written.failed) == (6, 1)
    assert len(told) == 6
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["paths"].tolist() == [str(path) for path in pictures]
        assert arrays["pre_logits"].shape == (5, 8)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.txt", "expected a name that ends in .csv or .json or .jsonl or .parquet"),
        ("folder.csv", "it is a folder"),
        ("mine.csv", "was not written by `mlp-mixer predict`"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_picture(
    predictor: Predictor, tmp_path: Path, name: str, sentence: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "mine.csv").write_text("name,age\n")

    def pictures() -> object:
        pytest.fail("a picture was asked for")
        yield

    with pytest.raises(UserError, match=sentence):
        predict_to_file(predictor, pictures(), tmp_path / name)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [0, 5, 1000])
def test_a_full_disk_is_one_sentence_and_no_answer_is_lost(
    predictor: Predictor,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
) -> None:
    left = [room]

    def short(self: Any, data: Any) -> int:
        taken = min(7, left[0], len(data))
        left[0] -= taken
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return io.FileIO.write(self, data[:taken])

    class Full(io.FileIO):
        write = short

    out = tmp_path / "answers.jsonl"
    told: list[str] = []
    before = Unfinished.__init__

    def on_a_full_disk(self: Any, *arguments: Any, **options: Any) -> None:
        before(self, *arguments, **options)
        self._file.close()
        self._file = Full(self.path, "a")

    monkeypatch.setattr(Unfinished, "__init__", on_a_full_disk)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        predict_to_file(
            predictor, pictures, out, report=lambda answer: told.append(answer.path)
        )
    assert len(told) < len(pictures)
    monkeypatch.setattr(Unfinished, "__init__", before)
    written = predict_to_file(
        predictor,
        pictures,
        out,
        resume=True,
        report=lambda answer: told.append(answer.path),
    )
    assert written.pictures == len(pictures)
    assert names(out) == told == [str(path) for path in pictures]
