"""Folders, lists and runs as strangers have them: no traceback, whatever they hold.

Each case is made from its number alone, and goes through check, training of one step,
evaluation and prediction. Two of three are orderly: odd names, endings, sizes and
encodings, but nothing to refuse, so that training has to take them. The others have
mistakes. `MLP_MIXER_FUZZED_FOLDERS=500` tries more of them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer import UserError
from mlp_mixer.cli import run
from mlp_mixer.data import open_dataset
from mlp_mixer.training import train
from mlp_mixer.training.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    PreprocessChoice,
    TrainConfig,
)

CASES = int(os.environ.get("MLP_MIXER_FUZZED_FOLDERS", "30"))

LABELS = [
    "cat", "dog", "train", "test", "dev", "val", "0", "10", "9", "-x", " a", "b ", "a;b",
    "a,b", '"q"', "café", unicodedata.normalize("NFD", "café"), "日本", "😀", "\x1b[31mr",
    "a\u202eb", "x" * 120, "lost+found", "@eaDir", ".hidden", "null", "None", "nan", "1.5",
    "[1]", "#1", "con", "%s{}", "*", "[ab]", "~", "a\nb", "a\\b",
]  # fmt: skip
# A folder of this name cannot be a class; the others can, or are passed over.
NOT_TEXT = os.fsdecode(b"v\xe9lo")
# In a list they look like several labels.
NO_LABELS = ["[1]"]
STEMS = [
    "1", "img", "a.b.c", "-rf", " ", "naïve", "\x1b]0;t\x07", "new\nline", "=1+1", "@sum",
    os.fsdecode(b"\xff\xfe"), "x" * 200, "#t=1", "%20", "[1]", "*", "a b", "'", '"', "ü",
]  # fmt: skip
ENDINGS = [
    ".png", ".png", ".png", ".PNG", ".jpg", ".jpeg", "", ".heic", ".txt", ".svg", ".gif",
    ".png.txt", ".JPG", ".db", ".webp",
]  # fmt: skip
PICTURES = [".png", ".PNG", ".jpg", ".JPG", ".jpeg", ".gif", ".webp"]
SPLITS = ["train", "Train", "training", "val", "dev", "valid", "test", "eval", "other"]
SIZES = [(1, 1), (16, 16), (1, 400), (400, 1), (31, 7), (5, 90), (64, 48), (2000, 2)]
ORDERLY = 2 / 3  # of the cases


class Case:
    """One dataset, and the dice that made it."""

    def __init__(self, number: int, root: Path) -> None:
        self.dice = np.random.default_rng([20, number])
        self.root = root
        self.files: list[Path] = []
        self.orderly = self.chance(ORDERLY)

    def pick(self, choices: list) -> object:
        return choices[self.dice.integers(len(choices))]

    def chance(self, share: float) -> bool:
        return bool(self.dice.random() < share)

    def fault(self, share: float) -> bool:
        """Whether to make a mistake here."""
        return self.chance(share) and not self.orderly

    def picture(self) -> bytes:
        """Return the bytes of a picture; one in ten may be broken somehow."""
        height, width = self.pick(SIZES)
        channels = self.pick([(), (3,), (3,), (4,)])
        pixels = self.dice.integers(0, 256, (height, width, *channels), np.uint8)
        file = io.BytesIO()
        image = Image.fromarray(pixels)
        kind = self.pick(["PNG", "PNG", "GIF", "BMP", "TIFF"])
        image.convert("RGB" if kind == "BMP" else image.mode).save(file, kind)
        data = file.getvalue()
        if self.fault(0.1):
            return self.pick([data[: len(data) // 2], b"", self.dice.bytes(50)])
        return data

    def plant(self, folder: Path, count: int, endings: list[str] = ENDINGS) -> None:
        for _ in range(count):
            path = folder / f"{self.pick(STEMS)}{self.pick(endings)}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.write_bytes(self.picture())
                    self.files.append(path)
            # The system has limits of its own.
            except OSError:
                continue

    def labels(self) -> list[str]:
        """Return the names of some classes."""
        some = {self.pick(LABELS) for _ in range(self.dice.integers(1, 5))}
        if self.fault(0.2):
            some.add(NOT_TEXT)
        if self.orderly or self.chance(0.6):
            some |= {"cat", "dog"}
        return sorted(some)

    def folder(self) -> str:
        """Write classes, in splits or not, and sometimes at a wrong depth."""
        tops = [self.root]
        if self.chance(0.4):
            tops = [self.root / name for name in self.splits()]
        if self.fault(0.1):
            tops = [self.root / "one" / "more"]
        labels = self.labels()
        for top in tops:
            for label in labels:
                # A class to learn needs a picture, and a name of one at that.
                if self.orderly:
                    self.plant(top / label, 1, PICTURES)
                self.plant(top / label, int(self.dice.integers(0, 6)))
                if self.fault(0.05):
                    self.plant(top / label / "deep", 1)
        if self.fault(0.15):
            self.plant(self.root, 1)
        if self.fault(0.1):
            (self.root / "loop").symlink_to(self.root)
        return f"{self.pick(['', 'folder:'])}{self.root}"

    def splits(self) -> list[str]:
        """Return the folders of splits: at most one of each, if all is in order."""
        if not self.orderly:
            names = {self.pick(SPLITS) for _ in range(self.dice.integers(1, 4))}
            return sorted(names)
        names = [self.pick(SPLITS[:3])]
        for others in (SPLITS[3:6], SPLITS[6:]):
            if self.chance(0.6):
                names.append(self.pick(others))
        return names

    def listing(self) -> str:
        """Write a list of pictures, perhaps with mistakes in some of its lines."""
        self.plant(self.root, 14)
        labels = self.labels()
        if self.orderly:
            labels = [label for label in labels if label not in NO_LABELS]
        rows = []
        for file in self.files:
            # The first lines name all classes.
            label = labels[len(rows)] if len(rows) < len(labels) else self.pick(labels)
            row = {"path": str(file.relative_to(self.root)), "label": label}
            if self.fault(0.05):
                row["path"] = self.pick(["", "nowhere.png", "..", "\0", "y" * 5000])
            rows.append(row)
        if self.chance(0.3):
            for number, row in enumerate(rows):
                row["split"] = self.pick(["train", "train", "Train", "test", "dev"])
                if self.orderly and number < len(labels):
                    row["split"] = "train"
        if self.fault(0.1) and rows:
            rows.append({**rows[0], "label": "other"})
        encode = self.as_csv if self.chance(0.5) else self.as_json
        return str(encode(rows))

    def as_csv(self, rows: list[dict]) -> Path:
        text = io.StringIO()
        columns = list(rows[0]) if rows else ["path", "label"]
        delimiter = self.pick([",", ",", ";", "\t"])
        table = csv.DictWriter(text, columns, delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
        path = self.root / "list.csv"
        path.write_bytes(self.encoded(text.getvalue()))
        return path

    def encoded(self, text: str) -> bytes:
        """Return the bytes of a list; another encoding may lose some of its letters."""
        kind = self.pick(["utf-8", "utf-8-sig", "utf-16", "cp1252"])
        if kind == "utf-16" or not self.orderly:
            try:
                return text.encode(kind)
            except UnicodeEncodeError:
                if not self.orderly:
                    return text.encode(kind, "replace")
        return text.encode("utf-8", "surrogateescape")

    def as_json(self, rows: list[dict]) -> Path:
        lines = []
        for row in rows:
            if self.fault(0.03):
                row = {**row, "label": self.pick([None, True, 1.5, {}, [], ["a"], 7])}
            lines.append(json.dumps(row, ensure_ascii=self.chance(0.5)))
        if self.fault(0.1):
            lines.append(self.pick(["", "{", "[" * 5000, "null", "\ufeff"]))
        path = self.root / "list.jsonl"
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
        return path


def one_step(spec: str) -> TrainConfig:
    return TrainConfig(
        recipe="tiny",
        model=ModelChoice(
            name="mixer_pico2",
            image_size=16,
            num_blocks=1,
            hidden_dim=8,
            tokens_mlp_dim=4,
            channels_mlp_dim=8,
        ),
        data=DataChoice(source=spec, workers=0),
        preprocess=PreprocessChoice(),
        train=LoopChoice(steps=1, batch_size=4, device="cpu", threads=1),
    )


def told(call: Callable[[], object]) -> str:
    """Return what a person is told by a call that does not work, which is a sentence."""
    sentence = ""
    try:
        call()
    except UserError as error:
        sentence = str(error)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("number", range(CASES))
def test_no_dataset_ends_in_a_traceback(
    number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    case = Case(number, root)
    spec = case.folder() if number % 2 else case.listing()
    checked = run(["data", "check", spec, "--workers", "1"])
    assert checked in (0, 1, 2)
    out = tmp_path / "run"
    refused = told(lambda: train(one_step(spec), out))
    assert not (refused and case.orderly), refused
    # The check sees what training refuses, but for pictures to learn from unlabelled.
    assert checked or not refused or "no sub folder of them per class" in refused
    if not refused:
        # A second run of the same command finds that there is nothing to do.
        train(one_step(spec), out, resume=True)
        status = run(["evaluate", str(out), "--data", spec, "--device", "cpu"])
        # With one image of each class there is none to hold out.
        judged = open_dataset(spec).test is not None
        assert status == 0 or (status == 2 and not (case.orderly and judged))
        assert run(["predict", str(out), str(root), "--json"]) in (0, 1)
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    assert "\x1b" not in captured.out
