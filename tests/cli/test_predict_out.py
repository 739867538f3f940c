"""`mlp-mixer predict` into files: the same answers in every format, exit codes, and
what is refused before any work.
"""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mlp_mixer
from mlp_mixer.cli import run
from mlp_mixer.inference import answers, formats


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


LABELS = ["hen, the bird", 'a "quoted"\nname', "naïve 猫", "=1+1", "e"]
NAMES = [
    "a.png",
    "b, with comma.png",
    'c "quoted".png',
    "d\nnewline.png",
    "é 猫.png",
    "broken.png",
    "z.png",
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = mlp_mixer.create_model(
        "mixer_nano4", num_classes=5, num_blocks=1, hidden_dim=8, image_size=16
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mlp_mixer.save(tmp_path / "model.safetensors", model, labels=LABELS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures and one that is none, with names that a careless writer would
    garble.
    """
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for name in NAMES:
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"<html>")
    return tmp_path / "pictures"


def flat(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer of --json as one row of columns."""
    row = {key: value for key, value in answer.items() if key != "top"}
    for rank, candidate in enumerate(answer.get("top", [])[1:], start=2):
        row |= {
            f"top{rank}_class": candidate["name"],
            f"top{rank}_score": candidate["score"],
        }
    return row


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a table as flat dictionaries without the empty columns."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        for row in rows:
            for key, value in row.items():
                if value and (key.endswith("_score") or key == "pred_label"):
                    row[key] = json.loads(value)
        return [
            {key: value for key, value in row.items() if value != ""} for row in rows
        ]
    if path.suffix == ".parquet":
        from pyarrow.parquet import read_table

        return [
            {k: v for k, v in row.items() if v is not None}
            for row in read_table(path).to_pylist()
        ]
    if path.suffix == ".jsonl":
        return [
            flat(json.loads(line))
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
    return [flat(answer) for answer in json.loads(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet", ".CSV"])
def test_every_format_reads_back_as_the_same_answers(
    checkpoint: Path,
    folder: Path,
    tmp_path: Path,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(formats, "_ROW_GROUP", 3)
    arguments = [
        "predict",
        str(checkpoint),
        str(folder),
        "nowhere.png",
        "--batch-size",
        "2",
        "--top",
        "3",
    ]
    assert call(*arguments, "--json") == 1
    expected = [flat(answer) for answer in json.loads(capsys.readouterr().out)]
    assert [row["path"] for row in expected] == [
        *(str(folder / name) for name in sorted(NAMES)),
        "nowhere.png",
    ]
    assert [
        sum(row.get(key, "") != "" for row in expected)
        for key in ("error", "top3_class", "score_kind")
    ] == [2, 6, 6]

    out = tmp_path / "new" / f"answers{suffix}"
    for more in ([], ["--overwrite"]):
        assert call(*arguments, "--out", out, *more) == 1
        streams = capsys.readouterr()
        assert streams.out == f"wrote answers for 6 pictures to {out}\n"
        assert streams.err.splitlines()[-1] == "2 of 8 pictures could not be read"
        assert streams.err.count("error: ") == 2
        assert [path.name for path in out.parent.iterdir()] == [out.name]
        renamed = out.rename(out.with_suffix(suffix.lower()))
        assert read(renamed) == expected
        renamed.rename(out)


def test_a_json_file_is_what_json_prints(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(checkpoint), str(folder)]
    assert call(*arguments, "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert call(*arguments, "--out", tmp_path / "a.json", "--json") == 1
    summary = json.loads(capsys.readouterr().out)
    computed = summary.pop("computed")
    assert computed["precision"] == "fp32"
    assert summary == {"out": str(tmp_path / "a.json"), "pictures": 7, "failed": 1}
    assert json.loads((tmp_path / "a.json").read_bytes()) == printed


def test_the_columns_do_not_depend_on_the_answers(
    checkpoint: Path, tmp_path: Path
) -> None:
    code = call(
        "predict", checkpoint, "nowhere.png", "--top", "2", "--out", tmp_path / "a.csv"
    )
    assert code == 1
    header, row = (tmp_path / "a.csv").read_text().splitlines()
    assert (
        header
        == "path,pred_label,pred_class,pred_score,score_kind,top2_class,top2_score,error"
    )
    assert row.startswith("nowhere.png,,,,,,,")
    code = call(
        "predict", checkpoint, "nowhere.png", "--top", "99", "--out", tmp_path / "b.csv"
    )
    assert code == 1
    assert (
        "top5_score,error\n" in (tmp_path / "b.csv").read_text()
    )  # no more than classes


def test_parquet_keeps_types(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    call("predict", checkpoint, folder, "--top", "2", "--out", tmp_path / "a.parquet")
    schema = parquet.read_schema(tmp_path / "a.parquet")
    assert [f"{field.name}:{field.type}" for field in schema] == [
        *(
            "path:string",
            "pred_label:int64",
            "pred_class:string",
            "pred_score:float",
            "score_kind:string",
        ),
        *("top2_class:string", "top2_score:float", "error:string"),
    ]


@pytest.mark.skipif(
    sys.platform in ("darwin", "win32"), reason="names of files are Unicode there"
)
@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet", ""])
def test_a_name_that_is_not_utf8(
    checkpoint: Path, folder: Path, tmp_path: Path, suffix: str
) -> None:
    latin = os.fsdecode(b"caf\xe9.png")
    (folder / "a.png").rename(folder / latin)
    out = ["--out", str(tmp_path / f"a{suffix}"), "--overwrite"] if suffix else []
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    assert call("predict", checkpoint, folder / latin, *out) == 0
    assert call("predict", checkpoint, folder / latin, *out, "--json") == 0
    if suffix:
        written = read(tmp_path / f"a{suffix}")[0]["path"]
        assert (
            written.encode("utf-8", "backslashreplace")
            .decode()
            .endswith("caf\\udce9.png")
        )


def test_rows_are_kept_while_they_come(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """No answer waits for the last picture; a failure of our own keeps them, and
    another run goes on from there.
    """
    events: list[str] = []
    forward = mlp_mixer.MlpMixer.forward
    to_dict = mlp_mixer.Prediction.to_dict

    def computed(self: mlp_mixer.MlpMixer, image: torch.Tensor) -> torch.Tensor:
        events.append("computed")
        return forward(self, image)

    def written(self: mlp_mixer.Prediction) -> dict[str, Any]:
        if len(events) == 5:
            raise RuntimeError("ours")
        events.append("written")
        return to_dict(self)

    out = tmp_path / "out" / "a.csv"
    command = [
        "predict",
        str(checkpoint),
        str(folder),
        "--out",
        str(out),
        "--batch-size",
        "1",
    ]
    # Few pictures are answered without torch otherwise.
    monkeypatch.setattr("mlp_mixer.inference.light.MOST_MULTIPLY_ADDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(mlp_mixer.MlpMixer, "forward", computed)
        patch.setattr(mlp_mixer.Prediction, "to_dict", written)
        with pytest.raises(RuntimeError, match="ours"):
            run(command)
    assert events == ["computed", "written"] * 2 + ["computed"]
    assert [path.name for path in out.parent.iterdir()] == ["a.csv.unfinished"]
    assert call(*command, "--resume") == 1
    assert [path.name for path in out.parent.iterdir()] == ["a.csv"]
    whole = tmp_path / "whole.csv"
    assert call("predict", checkpoint, folder, "--out", whole) == 1
    assert [row["path"] for row in read(out)] == [row["path"] for row in read(whole)]
    assert all(
        a == pytest.approx(b, abs=1e-6)
        for a, b in zip(map(scores, read(out)), map(scores, read(whole)), strict=True)
    )


def scores(row: dict[str, Any]) -> list[float]:
    return [
        float(value) for key, value in row.items() if key.endswith("_score") and value
    ]


# Going on


def unfinished(
    checkpoint: Path, folder: Path, out: Path, lines: int, tail: bytes = b""
) -> None:
    """Leave what a run leaves that was killed after so many answers, and in the middle
    of the next.
    """
    predictor = mlp_mixer.Predictor(checkpoint)
    part = answers.Unfinished(out, answers.identity(predictor), resume=False)
    given = list(predictor.predict([str(folder)]))
    for answer in given[:lines]:
        part.add(answer)
    part._file.close()
    with part.path.open("ab") as file:
        file.write(tail)


@pytest.mark.parametrize("lines", [0, 1, 5, 7])
@pytest.mark.parametrize(
    "tail", [b"", b'{"path": "half', b'{"path": "x"}garbage\n', b"\x00\x00\n"]
)
def test_a_cut_line_is_computed_again(
    checkpoint: Path, folder: Path, tmp_path: Path, lines: int, tail: bytes
) -> None:
    out = tmp_path / "a.jsonl"
    unfinished(checkpoint, folder, out, lines, tail)
    code = call(
        "predict", checkpoint, folder, "--out", out, "--resume", "--batch-size", "2"
    )
    assert code == 1
    assert [Path(row["path"]).name for row in read(out)] == sorted(NAMES)
    assert not out.with_name("a.jsonl.unfinished").exists()


def test_what_is_unfinished_is_not_lost(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "a.jsonl"
    unfinished(checkpoint, folder, out, 3)
    before = out.with_name("a.jsonl.unfinished").read_bytes()
    command = ["predict", str(checkpoint), str(folder), "--out", str(out)]
    for more, sentence in (
        (
            [],
            "holds the answers of a run that did not end: add --resume",
        ),
        (["--resume", "--top", "2"], "was begun with other weights or settings"),
    ):
        assert call(*command, *more) == 2
        assert sentence in capsys.readouterr().err
        assert out.with_name("a.jsonl.unfinished").read_bytes() == before
    (folder / "0 first.png").write_bytes(b"")
    assert call(*command, "--resume") == 2
    assert "the pictures have changed: number 1 was" in capsys.readouterr().err
    assert out.with_name("a.jsonl.unfinished").read_bytes() == before
    assert call("predict", checkpoint, folder, "--resume") == 2
    error = capsys.readouterr().err
    assert "--resume continues a file of answers: add --out FILE" in error


def test_killed_at_any_instant_each_picture_comes_once(
    checkpoint: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "many"
    out = tmp_path / "out.csv"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(400):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            pictures / f"{number:04}.png"
        )
    code = "import sys; from mlp_mixer.cli import run; sys.exit(run())"
    command = [
        sys.executable,
        "-c",
        code,
        "predict",
        str(checkpoint),
        str(pictures),
        "--out",
        str(out),
    ]
    command += ["--resume", "--batch-size", "1"]
    kills = 0
    sizes = []
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        before = sizes[-1] if sizes else 0
        while process.poll() is None and kills < 4:
            part = out.with_name("out.csv.unfinished")
            if part.exists() and part.stat().st_size > before + 5000 + 3000 * kills:
                process.send_signal(signal.SIGKILL)
                kills += 1
                sizes.append(part.stat().st_size)
                break
        if process.wait() == 0:
            break
    assert kills >= 3
    assert [Path(row["path"]).name for row in read(out)] == [
        f"{number:04}.png" for number in range(400)
    ]


# Lists, patterns, videos


def test_a_list_on_stdin_and_patterns(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    listed = [folder / "a.png", folder / NAMES[4], folder / "d\nnewline.png"]
    for separator, count in ((b"\0", 3), (b"\n", 2), (b"\r\n", 2)):
        text = separator.join(os.fsencode(path) for path in listed[:count]) + separator
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        out = tmp_path / "a.jsonl"
        assert call("predict", checkpoint, "-", "--out", out, "--overwrite") == 0
        assert [row["path"] for row in read(out)] == [
            str(path) for path in listed[:count]
        ]
    to_out = ["--out", str(out), "--overwrite"]
    assert call("predict", checkpoint, tmp_path / "**" / "[abz]*.png", *to_out) == 1
    assert [Path(row["path"]).name for row in read(out)] == [
        "a.png",
        "b, with comma.png",
        "broken.png",
        "z.png",
    ]
    assert call("predict", checkpoint, folder / "*.jpg", *to_out) == 1
    assert read(out)[0]["error"].startswith("nothing matches")


def test_a_frame_of_every_second_of_a_video(
    checkpoint: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    av = pytest.importorskip("av")
    video = tmp_path / "film.mp4"
    with av.open(str(video), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for number in range(25):
            grey = np.full((32, 32, 3), 10 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        file.mux(stream.encode())
    (tmp_path / "broken.mp4").write_bytes(video.read_bytes()[:200])
    answers = list(
        mlp_mixer.Predictor(str(checkpoint)).predict([video, tmp_path / "broken.mp4"])
    )
    assert [Path(answer.path).name for answer in answers] == [
        "film.mp4#t=0.00",
        "film.mp4#t=1.00",
        "film.mp4#t=2.00",
        "broken.mp4",
    ]
    assert "cannot read the video" in answers[-1].error
    monkeypatch.setitem(sys.modules, "av", None)
    (answer,) = mlp_mixer.Predictor(str(checkpoint)).predict([video])
    assert "needs PyAV: pip install av" in answer.error


# Features


def test_features_into_a_file(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.npz"
    command = ["predict", str(checkpoint), "--out", str(out)]
    for more in ([], ["--overwrite"]):
        assert call(*command, folder, "--features", "blocks.0", *more) == 1
        streams = capsys.readouterr()
        assert streams.out == f"wrote blocks.0 for 6 pictures to {out}\n"
        assert "broken.png" in streams.err
    with np.load(out, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["blocks.0", "paths"]
        assert arrays["paths"].tolist() == [
            str(folder / name) for name in sorted(NAMES) if name != "broken.png"
        ]
        assert arrays["blocks.0"].shape == (6, 16, 8)
        assert arrays["blocks.0"].dtype == np.float32
        direct = mlp_mixer.load(checkpoint)
        x = direct.preprocess(mlp_mixer.decode_image(folder / "a.png"))[None]
        expected = direct.model.features(x)["blocks.0"][0].detach().numpy()
        np.testing.assert_allclose(arrays["blocks.0"][0], expected, atol=1e-5)
    assert call(*command, "nowhere.png", "--features", "norm", "--overwrite") == 1
    with np.load(out) as arrays:
        assert len(arrays["paths"]) == len(arrays["norm"]) == 0


def test_features_of_a_checkpoint_without_classes(folder: Path, tmp_path: Path) -> None:
    model = mlp_mixer.create_model(
        "mixer_nano4", num_classes=0, num_blocks=1, hidden_dim=8, image_size=16
    )
    path = mlp_mixer.save(tmp_path / "headless.safetensors", model)
    arguments = ["predict", str(path), str(folder / "a.png")]
    code = call(*arguments, "--features", "pre_logits", "--out", tmp_path / "a.npz")
    assert code == 0
    assert call(*arguments, "--out", tmp_path / "a.csv") == 2
    assert not (tmp_path / "a.csv").exists()


# Scores


def test_a_sigmoid_head_is_told_once(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = mlp_mixer.load(checkpoint)
    path = mlp_mixer.save(
        tmp_path / "sigmoid.safetensors",
        loaded.model,
        labels=LABELS,
        provenance={"head": "sigmoid"},
    )
    assert call("predict", path, folder / "a.png", folder / "z.png") == 0
    assert capsys.readouterr().err.count("sigmoid") == 1
    assert call("predict", path, folder / "a.png", "--out", tmp_path / "a.csv") == 0
    assert read(tmp_path / "a.csv")[0]["score_kind"] == "sigmoid"
    assert call("predict", checkpoint, folder / "a.png") == 0
    assert "sigmoid" not in capsys.readouterr().err


# Refusals


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert run(list(map(str, arguments))) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert len(streams.err.splitlines()) == 1
    return streams.err


def test_what_cannot_be_written_is_refused_before_any_work(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "mlp_mixer.inference.predictor.load", lambda _: pytest.fail("loaded")
    )
    monkeypatch.chdir(tmp_path)
    Path("folder.csv").mkdir()
    Path("mine.csv").write_text("name,age\n")
    Path("config.json").write_text('{\n  "model": {}\n}\n')
    np.savez("weights.npz", kernel=np.zeros(3))
    before = {
        path.name: path.is_dir() or path.read_bytes() for path in tmp_path.iterdir()
    }
    for out, sentence in {
        "a.xlsx": "expected a name that ends in .csv or .json or .jsonl or .parquet",
        "a": "expected a name that ends in",
        checkpoint: "cannot write answers to",
        "weights.npz": "cannot write answers to",
        "folder.csv": "it is a folder",
        "mine.csv": "'mine.csv' was not written by `mlp-mixer predict`; move it, or choose another name",
        "config.json": "was not written by `mlp-mixer predict`",
    }.items():
        assert sentence in refused(capsys, "predict", checkpoint, "a.png", "--out", out)
    for out, sentence in {
        "weights.npz": "was not written by `mlp-mixer predict`",
        "a.csv": "cannot write features to 'a.csv': expected a name that ends in .npz",
        checkpoint: "ends in .npz",
    }.items():
        assert sentence in refused(
            capsys, "predict", checkpoint, "a.png", "--out", out, "--features", "norm"
        )
    assert "add --out FILE.npz" in refused(
        capsys, "predict", checkpoint, "a.png", "--features", "norm"
    )
    assert {
        path.name: path.is_dir() or path.read_bytes() for path in tmp_path.iterdir()
    } == before


def test_an_empty_file_may_be_replaced(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").touch()
    code = call("predict", checkpoint, folder / "a.png", "--out", tmp_path / "a.csv")
    assert code == 0
    assert len(read(tmp_path / "a.csv")) == 1


def test_parquet_without_pyarrow(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    sentence = refused(
        capsys, "predict", checkpoint, "a.png", "--out", tmp_path / "a.parquet"
    )
    assert "pip install pyarrow" in sentence
    assert not (tmp_path / "a.parquet").exists()


def test_an_unknown_feature(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "predict",
        checkpoint,
        "a.png",
        "--features",
        "prelogits",
        "--out",
        tmp_path / "a.npz",
    )
    assert "did you mean 'pre_logits' or 'logits'?" in refused(capsys, *arguments)
    assert not (tmp_path / "a.npz").exists()


def test_which_argument_is_the_checkpoint(
    checkpoint: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run/best.safetensors", "hub/model.safetensors"):
        Path(name).parent.mkdir()
        Path(name).write_bytes(checkpoint.read_bytes())
    asked: list[str] = []

    def load(source: str, **_: Any) -> Any:
        asked.append(source)
        return mlp_mixer.load(checkpoint)

    monkeypatch.setattr("mlp_mixer.inference.predictor.load", load)
    named = [
        "run",
        "hub",
        "hf-hub:someone/mixer",
        "x.npz",
        "mlp-mixer-base-p16_3rdparty_64xb64_in1k",
        "mixer_b16",
    ]
    for name in named:
        assert call("predict", name, folder / "a.png", "--engine", "plain") == 0
    assert asked == named

    for second in (
        "run",
        "hub",
        "other.pth",
        checkpoint,
        "hf-hub:someone/mixer",
        "mixer_b16",
    ):
        sentence = refused(capsys, "predict", checkpoint, "a.png", second)
        assert f"{str(second)!r} is a checkpoint, not a picture" in sentence
        assert f"{str(second)!r} is a checkpoint, not a picture" in refused(
            capsys, "predict", "--model", "run", second
        )
    assert "'run' is a checkpoint, not a picture; put it first" in refused(
        capsys, "predict", folder, "run"
    )
    (folder / "config.json").write_text("{}")  # pictures may lie beside one
    assert call("predict", checkpoint, folder) == 1
    assert "Missing argument" in refused(capsys, "predict")
