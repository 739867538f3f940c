"""kill -9 at random instants, again and again, and the run still ends with the same
bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..commands import Command, Group, until

KILLS = int(os.environ.get("MLP_MIXER_KILLS", "3"))
SETTINGS = [
    "train.batch_size=64",
    "train.save_every_steps=2",
    "train.eval_every_epochs=1",
    "train.threads=1",
    "train.device=cpu",
    "train.ema=0.95",
    "model.dropout=0.1",
    "model.drop_path=0.1",
    "model.hidden_dim=16",
    "mix.mixup=0.5",
    "mix.cutmix=1",
    "augment.policy=trivialaugment",
    "augment.erase=0.3",
    "data.workers=1",
]


def words(out: Path, kills: int) -> list[str]:
    """What follows `python`."""
    settings = [
        part
        for setting in (*SETTINGS, f"train.epochs={0.5 * kills + 1.5}")
        for part in ("--set", setting)
    ]
    train = ["-m", "mlp_mixer", "train", "digits", "--out", str(out), "--resume"]
    return [*train, *settings]


def begin(out: Path, processes: int, kills: int) -> list[Command]:
    if processes == 1:
        return [Command(words(out, kills))]
    return Group(words(out, kills), processes).members


def run(out: Path, processes: int, kills: int) -> None:
    for process in begin(out, processes, kills):
        assert process.wait() == 0, process.stderr[-3000:]


def digests(out: Path) -> list[str]:
    paths = [
        out / "best.safetensors",
        out / "last.safetensors",
        *sorted((out / "state").iterdir()),
    ]
    return [
        f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths
    ]


def steps_saved(out: Path) -> int:
    """The step of the newest state, 0 without one."""
    return max(
        (
            int(path.stem.removeprefix("step-"))
            for path in (out / "state").glob("step-*")
        ),
        default=0,
    )


def kill_tree(pid: int) -> None:
    """Kill a process and all below it, as when the power fails; torchrun's workers lead
    sessions of their own.
    """
    family = [pid]
    for member in family:
        below = subprocess.run(
            ["pgrep", "-P", str(member)], capture_output=True, text=True, check=False
        ).stdout
        family += [int(child) for child in below.split()]
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


@pytest.mark.parametrize(("processes", "kills"), [(1, KILLS), (2, -(-KILLS // 3))])
def test_killed_at_random_and_resumed_gives_the_same_bytes(
    tmp_path: Path, processes: int, kills: int
) -> None:
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    run(whole, processes, kills)
    rng = random.Random(0)
    for _ in range(kills):
        before = steps_saved(killed)
        running = begin(killed, processes, kills)
        # Let it come a little further each time.
        until(lambda before=before: steps_saved(killed) != before, running[0])
        time.sleep(rng.uniform(0, 0.1))
        for process in running:
            kill_tree(process.pid)
        for process in running:
            process.wait()
    assert 0 < steps_saved(killed) < steps_saved(whole), (
        "the kills did not meet a run under way"
    )
    (killed / "state" / ".step-000000002.safetensors.1.0.tmp").write_bytes(
        b"a writer was killed here"
    )
    if processes == 1:
        # It begins from nothing: with another seed of Python's hashes, too.
        command = [sys.executable, *words(killed, kills)]
        subprocess.run(command, check=True, capture_output=True)
    else:
        run(killed, processes, kills)
    assert digests(killed) == digests(whole)
    assert not list(killed.rglob("*.tmp*")), (
        "a killed writer's leftovers were not cleaned up"
    )
