"""Several processes: the same curve, exact resuming, restarts by torchrun, sharded
weights, spikes.

torchrun starts them where it is tested: restarts, polite stops, two hosts. Elsewhere
they get the variables that it sets, and begin with torch imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mlp_mixer import load

from ..commands import Command, Group, until

SETTINGS = [
    "train.epochs=3", "train.batch_size=96", "train.save_every_steps=4", "train.eval_every_epochs=1",
    "model.drop_path=0.2", "model.hidden_dim=16", "mix.mixup=0.5", "augment.flip=true", "train.ema=0.9",
    "train.device=cpu", "train.threads=1", "train.log_every_steps=1",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="torchrun's gloo needs a POSIX system"
)


def words(out: Path, *settings: str, resume: bool = True) -> list[str]:
    """What follows `python`."""
    chosen = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    going_on = ["--resume"] if resume else []
    return ["-m", "mlp_mixer", "train", "digits", "--out", str(out), *going_on, *chosen]


def torchrun(words: list[str], *options: str) -> list[str]:
    """The command by which torchrun starts two processes."""
    program = [sys.executable, "-m", "torch.distributed.run", *options]
    return [*program, "--monitor-interval=0.2", *words]


def run(out: Path, processes: int, *settings: str) -> None:
    begun = begin(out, processes, *settings)
    done = begun.completed()
    assert done.returncode == 0, done.stderr[-3000:]


def begin(out: Path, processes: int, *settings: str) -> Command | Group:
    """Start one process, or several that know of each other."""
    if processes == 1:
        return Command(words(out, *settings), env=ENVIRONMENT)
    return Group(words(out, *settings), processes, env=ENVIRONMENT)


def rows(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    found = [
        json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()
    ]
    return [row for row in found if row["kind"] == kind]


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
    return max(
        (int(path.name[5:14]) for path in (out / "state").glob("step-*")), default=0
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing disturbed."""
    out = tmp_path_factory.mktemp("two") / "run"
    run(out, 2)
    return out


def test_one_two_and_three_processes_have_the_same_curve(
    two: Path, tmp_path: Path
) -> None:
    """The same global batches, mixtures and stochastic depths; only the order of sums
    differs.
    """
    for processes in (1, 3):
        out = tmp_path / str(processes)
        run(out, processes, "mix.group=2")
        assert [row["loss"] for row in rows(out)] == pytest.approx(
            [row["loss"] for row in rows(two)], abs=2e-5
        )
        for one, other in zip(rows(out, "eval"), rows(two, "eval"), strict=True):
            assert (one["n"], one["top1"]) == (other["n"], other["top1"])
            assert one["loss"] == pytest.approx(other["loss"], abs=2e-5)


def test_sharded_weights_learn_the_same(two: Path, tmp_path: Path) -> None:
    """FSDP2: each process saves its own part; without one of the newest state's, one
    process goes on from the other.
    """
    out = tmp_path / "sharded"
    run(out, 2, "train.parallel=fsdp")
    assert [row["loss"] for row in rows(out)] == pytest.approx(
        [row["loss"] for row in rows(two)], abs=2e-5
    )
    images = torch.rand(8, 1, 8, 8)
    logits, expected = (load(folder).model(images) for folder in (out, two))
    assert torch.allclose(
        logits, expected, atol=1e-4
    )  # the weights: not where the last norm takes their gradient away
    # Finished, it keeps no part.
    assert [path.name[14:] for path in (out / "state").iterdir()] == [".safetensors"]

    killed = tmp_path / "killed"
    # A complete state, and at least a part of the next.
    kill_when(
        lambda: len(list((killed / "state").glob("step-*"))) > 2,
        killed,
        "train.parallel=fsdp",
    )
    files = sorted((killed / "state").glob("step-*"))
    parts = {f".part-{part}-of-2.safetensors" for part in (0, 1)}
    assert {path.name[14:] for path in files} == parts
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) < 1.5 * min(sizes)
    files[-1].unlink()
    run(killed, 1)
    assert [path.name for path in (killed / "state").iterdir()] == [
        path.name for path in (out / "state").iterdir()
    ]
    assert rows(killed)[-1]["loss"] == pytest.approx(rows(two)[-1]["loss"], abs=2e-5)


def test_sharded_weights_resume_to_the_same_bytes(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    run(whole, 2, "train.parallel=fsdp")
    kill_after_a_state(killed, "train.parallel=fsdp")
    run(killed, 2, "train.parallel=fsdp")
    assert digests(killed) == digests(whole)


def kill_after_a_state(out: Path, *settings: str) -> None:
    """Kill every process of a run at once, when it has saved once more."""
    before = steps_saved(out)
    kill_when(lambda: steps_saved(out) != before, out, *settings)


def kill_when(ready: Callable[[], bool], out: Path, *settings: str) -> None:
    """Kill every process of a run at once, when something has happened."""
    processes = begin(out, 2, *settings)
    until(ready, processes)
    processes.kill()
    processes.completed()


# Hardly more than the median is a spike, from the 21st of 40 steps on.
SPIKES = (
    "train.on_spike=skip",
    "train.spike_factor=1.01",
    "train.block_norms_every_steps=5",
    "mix.mixup=0",
)


def left_out(out: Path) -> list[int]:
    return [row["left_out"] for row in rows(out, "note") if "left_out" in row]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run(out, 1, *SPIKES)
    return out


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_leave_out_the_steps_that_one_does(
    alone: Path, tmp_path: Path, parallel: str
) -> None:
    """Each has half of the images and, with FSDP, half of the gradient.

    If one of them took a step that the other left out, their weights would part, and
    the loss over both would not be that of one process.
    """
    steps = left_out(alone)
    assert 3 <= len(steps) < len(rows(alone)) - 20
    out = tmp_path / "two"
    run(out, 2, *SPIKES, f"train.parallel={parallel}")
    assert left_out(out) == steps
    for one, two in zip(rows(alone), rows(out), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=2e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], abs=2e-4)
        for name, norm in one.get("block_grad_norms", {}).items():
            # Four digits are written.
            expected = pytest.approx(norm, rel=2e-3, abs=1e-6)
            assert two["block_grad_norms"][name] == expected


def test_two_processes_remember_what_is_usual(tmp_path: Path) -> None:
    """Killed before the first spike and resumed, they end with the same bytes."""
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    run(whole, 2, *SPIKES)
    assert left_out(whole)
    kill_after_a_state(killed, *SPIKES)
    run(killed, 2, *SPIKES)
    assert digests(killed) == digests(whole)
    assert left_out(killed) == left_out(whole)


def test_torchrun_restarts_after_a_worker_died(two: Path, tmp_path: Path) -> None:
    """The command has no --resume: a restart goes on by itself."""
    out = tmp_path / "elastic"
    options = ("--standalone", "--nproc-per-node=2", "--max-restarts=3")
    process = subprocess.Popen(
        torchrun(words(out, resume=False), *options),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    until(lambda: steps_saved(out) > 0, process)
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors[-3000:]
    assert digests(out) == digests(two)


def test_a_polite_stop_saves_at_the_same_step_everywhere(
    two: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        torchrun(words(out), "--standalone", "--nproc-per-node=2"),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: steps_saved(out) > 0, process)
    process.terminate()
    process.wait(timeout=1200)
    assert 0 < steps_saved(out) < steps_saved(two)
    run(out, 2)
    assert digests(out) == digests(two)


@pytest.fixture
def two_hosts() -> Iterator[list[str]]:
    """Two network namespaces with a cable between them, and no other network: 10.73.0.1
    and 10.73.0.2.
    """
    names = [f"mixer{os.getpid()}{host}" for host in "ab"]
    setup = [
        *(f"ip netns add {name}" for name in names),
        f"ip -n {names[0]} link add wire type veth peer name wire netns {names[1]}",
        *(
            f"ip -n {name} addr add 10.73.0.{host}/24 dev wire"
            for host, name in enumerate(names, start=1)
        ),
        *(
            f"ip -n {name} link set {device} up"
            for name in names
            for device in ("lo", "wire")
        ),
    ]
    try:
        for line in setup:
            subprocess.run(line.split(), check=True, capture_output=True)
        yield names
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    finally:
        if shutil.which("ip"):
            for name in names:
                subprocess.run(
                    ["ip", "netns", "delete", name], check=False, capture_output=True
                )


def test_two_hosts_are_as_good_as_one(
    two: Path, tmp_path: Path, two_hosts: list[str]
) -> None:
    """One process on each of two machines that reach each other by one wire only, with
    a common file system.
    """
    out = tmp_path / "hosts"
    processes = []
    for host, name in enumerate(two_hosts, start=1):
        place = [
            "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=10.73.0.1:29511",
            f"--rdzv-conf=is_host={host == 1}", f"--local-addr=10.73.0.{host}",
        ]  # fmt: skip
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, *torchrun(words(out), *place)],
            env={**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "wire"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
    errors = [process.communicate(timeout=1200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)[
        -3000:
    ]
    assert digests(out) == digests(two)
