"""JSON lines that survive a crash."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from mlp_mixer import UserError
from mlp_mixer.training import journal as module
from mlp_mixer.training.journal import Journal, read_journal, read_rows


def test_rows_are_on_disk_at_once_and_later_ones_are_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path, from_step=0)
    for step in range(1, 6):
        journal.append({"kind": "train", "step": step, "note": "ä\n"})
        assert len(read_journal(tmp_path)) == step
    Journal(tmp_path, from_step=3)
    assert [row["step"] for row in read_journal(tmp_path)] == [1, 2, 3]
    Journal(tmp_path, from_step=0)
    assert read_journal(tmp_path) == []


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path, from_step=0)
    journal.append({"step": 1})
    with journal.path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_journal(tmp_path) == [{"step": 1}]
    Journal(tmp_path, from_step=5).append({"step": 2})
    assert read_journal(tmp_path) == [{"step": 1}, {"step": 2}]


def test_a_journal_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    journal = Journal(tmp_path, from_step=0)
    journal.path.unlink()
    journal.path.mkdir()
    with pytest.raises(UserError, match="cannot write .*metrics.jsonl"):
        journal.append({"step": 1})


ROWS = {
    "a bit of UTF-8": b'{"kind": "train", "step": 2, "loss": 1.0\xff}',
    "no object": b"[1, 2]",
    "a number": b"3",
    "deep": b"[" * 100_000,
    "a long integer": b'{"kind": "x", "step": ' + b"9" * 5000 + b"}",
    "a huge integer": b'{"kind": "eval", "step": 2, "loss": 1' + b"0" * 400 + b"}",
    "a step of text": b'{"kind": "x", "step": "2"}',
    "a kind that is none": b'{"kind": 2, "step": 2}',
    "a loss of text": b'{"kind": "eval", "step": 2, "loss": "low"}',
    "images that are none": b'{"kind": "eval", "step": 2, "n": NaN}',
    "a byte of zero": b'{"kind": "x", \x00"step": 2}',
}


@pytest.mark.parametrize("name", ROWS)
def test_a_damaged_line_costs_itself_alone(tmp_path: Path, name: str) -> None:
    first = b'{"kind": "train", "step": 1, "loss": NaN, "images_per_second": 3}\n'
    last = b'{"kind": "eval", "step": 3, "top1": 0.5, "n": 10}\n'
    (tmp_path / "metrics.jsonl").write_bytes(first + ROWS[name] + b"\n" + last)
    rows, damaged = read_rows(tmp_path)
    assert [row["step"] for row in rows] == [1, 3]
    assert damaged == 1
    journal = Journal(tmp_path, from_step=3)
    assert journal.damaged == 1
    assert [row["step"] for row in read_journal(tmp_path)] == [1, 3]


def test_a_journal_without_end_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(2**29)
    with pytest.raises(UserError, match="is no journal of a run: it has .* at most"):
        read_journal(tmp_path)


# Each line would take megabytes, or the stack of whatever prints it.
STRANGE = {
    "deep": '{"step": 1, "x": ' + "[" * 50 + "]" * 50 + "}",
    "deeper than the stack": '{"step": 1, "x": ' + "[" * 30_000 + "]" * 30_000 + "}",
    "empty lists": '{"step": 1, "x": [' + "[]," * 20_000 + "0]}",
    "a long text": '{"step": 1, "x": "' + "a" * 200_000 + '"}',
    "2**63 as NaN": '{"step": NaN}',
    "a step of 2**63": f'{{"step": {2**63}}}',
    "yes": '{"step": true}',
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strangers_line_is_left_out(tmp_path: Path, name: str) -> None:
    lines = ['{"step": 1}', STRANGE[name], '{"step": 2, "loss": NaN}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    tracemalloc.start()
    try:
        rows, damaged = read_rows(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert [row["step"] for row in rows] == [1, 2]
    assert damaged == 1


def test_a_row_of_many_blocks_is_read(tmp_path: Path) -> None:
    norms = {f"blocks.{k}": 0.123456789 for k in range(500)}
    journal = Journal(tmp_path, from_step=0)
    journal.append({"kind": "gradients", "step": 1, "norms": norms})
    assert read_journal(tmp_path)[0]["norms"] == norms


def test_a_journal_of_too_many_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three bytes a line, and a hundred of memory."""
    monkeypatch.setattr(module, "_MOST_ROWS", 10)
    (tmp_path / "metrics.jsonl").write_text("{}\n" * 11)
    with pytest.raises(
        UserError, match="no journal of a run: it has more than 10 lines"
    ):
        read_rows(tmp_path)


def test_a_journal_that_is_a_device(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/zero")
    assert read_rows(tmp_path) == ([], 0)
    (tmp_path / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert read_rows(tmp_path) == ([], 0)
