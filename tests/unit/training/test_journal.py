"""JSON lines that survive a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlp_mixer import UserError
from mlp_mixer.training.journal import Journal, read_journal


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
