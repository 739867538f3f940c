"""The script for a machine that is lent for minutes: nothing ends it, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GPU = Path(__file__).parents[3] / "benchmarks" / "gpu"
SCRIPT = GPU / "run_all.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, with kills that do not wait long."""
    monkeypatch.syspath_prepend(str(GPU))
    import run_all

    monkeypatch.setattr(run_all, "GRACE", 0.2)
    monkeypatch.setattr(run_all, "RESERVE", 0.0)
    monkeypatch.setattr(run_all, "PATIENCE", 1)
    return run_all


def stage(script: Any, name: str, code: str, **changes: Any) -> Any:
    """A stage that runs some Python, or a script of a shell; its rehearsal is the same."""
    command = ("{python}", "-S", "-c", code)
    if code.startswith("trap"):
        command = ("/bin/sh", "-c", code)
    values = {"least": 0, "most": 30, "smoke": command} | changes
    return script.Stage(name, command, **values)


Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(script: Any, tmp_path: Path) -> Run:
    def run(*stages: Any, seconds: float = 60) -> list[dict[str, Any]]:
        runner = script.Runner(tmp_path / "out", seconds, "cpu", True)
        runner.work = tmp_path / "work"
        runner.run(stages)
        return rows(tmp_path / "out")

    return run


def rows(out: Path) -> list[dict[str, Any]]:
    lines = (out / "rows.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_stage_that_fails_is_a_row_and_the_next_one_runs(
    script: Any, run: Run, tmp_path: Path
) -> None:
    good = "print('ROW {\"a\": 1}'); print('ROW {\"b'); print('ROWS of corn')"
    bad = "import sys; print('it broke', file=sys.stderr); sys.exit(3)"
    crash = "import os; os.abort()"
    found = run(
        stage(script, "bad", bad),
        stage(script, "crash", crash),
        stage(script, "good", good),
    )
    assert [row["stage"] for row in found] == ["bad", "crash", "good"]
    assert found[0]["status"] == "failed: exit code 3"
    assert found[0]["tail"] == ["it broke"]
    assert found[1]["status"].startswith("failed: exit code -")
    assert found[2]["status"] == "done"
    assert found[2]["rows"] == [{"a": 1}, {"cut": '{"b'}]
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.startswith("==== bad: failed: exit code 3\nit broke\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "log.txt",
        "rows.jsonl",
    ]


# Neither the shell nor its child ends when it is asked to.
FORK = "trap '' TERM; sleep 60 & echo ROW $!; "


def is_alive(pid: int) -> bool:
    """Whether a process computes: one that waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_a_stage_that_hangs_is_killed_with_its_children(script: Any, run: Run) -> None:
    start = time.monotonic()
    hung = stage(script, "hung", FORK + "wait", most=3)
    found = run(hung, stage(script, "next", "print(1)"))
    assert found[0]["status"].startswith("killed: after ")
    assert found[1]["status"] == "done"
    assert time.monotonic() - start < 50, "it was not killed, but ended by itself"
    (child,) = found[0]["rows"]
    assert not is_alive(child)


def test_children_of_a_stage_that_ended_are_ended_too(script: Any, run: Run) -> None:
    (found,) = run(stage(script, "parent", FORK))
    assert found["status"] == "done"
    assert not is_alive(found["rows"][0])


def test_what_does_not_fit_is_left_out_and_what_fits_still_runs(
    script: Any, run: Run
) -> None:
    found = run(
        stage(script, "long", "print(1)", least=900),
        stage(script, "short", "print(1)"),
        stage(script, "absent", "print(1)", needs="data/nothing_of_the_kind"),
        stage(script, "gpu_only", "print(1)", smoke=None),
    )
    statuses = {row["stage"]: row["status"] for row in found}
    assert statuses["long"].startswith("left out: it needs 900 s, and ")
    assert statuses["short"] == "done"
    said = "left out: data/nothing_of_the_kind is not here"
    assert statuses["absent"] == said
    assert statuses["gpu_only"] == "left out: it has no rehearsal"


def test_the_budget_ends_a_stage_before_its_own_limit(script: Any, run: Run) -> None:
    start = time.monotonic()
    sleeper = stage(script, "sleeper", "import time; time.sleep(60)")
    (found,) = run(sleeper, seconds=1)
    assert found["status"].startswith("killed: after ")
    assert time.monotonic() - start < 50


def test_a_stage_beside_others_is_awaited_before_time_is_measured(
    script: Any, run: Run
) -> None:
    nap = "import time; time.sleep({}); print('ROW', {})"
    found = run(
        stage(script, "beside", nap.format(0.8, 1), beside=True),
        stage(script, "first", nap.format(0, 2)),
        stage(script, "alone", nap.format(0, 3), alone=True),
    )
    assert [row["stage"] for row in found] == ["first", "beside", "alone"]
    assert [row["rows"] for row in found] == [[2], [1], [3]]


def test_rows_of_benches_and_of_the_ladder_belong_to_who_wrote_them(
    script: Any, run: Run, tmp_path: Path
) -> None:
    work = tmp_path / "work" / "ladder"
    work.mkdir(parents=True)
    (work / "rows.jsonl").write_text('{"name": "old"}\n')
    ladder = (
        f"open({str(work / 'rows.jsonl')!r}, 'a').write('{{\"name\": \"new\"}}\\n')"
    )
    bench = """
import os
path = {path!r}
new = not os.path.exists(path)
with open(path, 'a') as file:
    file.write(('a,b\\n' if new else '') + {row!r} + '\\n')
"""
    path = str(tmp_path / "out" / "bench.csv")
    found = run(
        stage(script, "one", bench.format(path=path, row="1,")),
        stage(script, "ladder", ladder),
        stage(script, "two", bench.format(path=path, row="1,2")),
    )
    assert found[0]["rows"] == [{"a": "1"}]
    assert found[1]["rows"] == [{"name": "new"}]
    assert found[2]["rows"] == [{"a": "1", "b": "2"}]


def test_the_second_call_passes_over_what_the_first_has_done(
    script: Any, tmp_path: Path
) -> None:
    earlier = tmp_path / "rows.jsonl"
    statuses = {
        "facts": "done",
        "right": "failed: exit code 1",
        "b16": "killed: after 150 s",
        "s32": "left out: it needs 60 s, and 9 are left",
    }
    lines = [json.dumps({"stage": a, "status": b}) for a, b in statuses.items()]
    earlier.write_text("\n".join([*lines, '{"stage": "s1']))
    assert script.already_done(earlier) == {"facts", "right"}
    names = [one.name for one in script.chosen("", earlier)]
    assert names[:3] == ["warm", "b16", "b16-autotune"]
    assert [one.name for one in script.chosen("s32, facts", None)] == ["facts", "s32"]
    with pytest.raises(SystemExit, match="unknown stage 'b17'"):
        script.chosen("b17", None)


def test_the_stages_are_consistent_and_the_queue_names_each(script: Any) -> None:
    queue = (GPU / "QUEUE.md").read_text()
    names = [one.name for one in script.STAGES]
    assert len(set(names)) == len(names)
    from mlp_mixer.bench.peers import PEERS

    for one in script.STAGES:
        assert f"`{one.name}`" in queue, one.name
        assert 0 < one.least <= one.most <= 570, one.name
        if "--peers" in one.command:
            peers = one.command[one.command.index("--peers") + 1]
            assert set(peers.split(",")) <= set(PEERS)


def test_stopped_by_a_signal_it_writes_its_last_row_and_leaves_no_process(
    tmp_path: Path,
) -> None:
    driver = f"""
import sys
sys.path.insert(0, {str(GPU)!r})
import run_all
code = "import os, time; print('ROW', os.getpid(), flush=True); time.sleep(60)"
command = ("{{python}}", "-S", "-c", code)
run_all.chosen = lambda only, done: [run_all.Stage("s", command, 0, 50, command)]
sys.argv = ["run_all", "--device", "cpu", "--smoke", "--out", {str(tmp_path)!r}]
run_all.main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", driver], stdout=subprocess.DEVNULL
    )
    log = tmp_path / ".s.log"
    until = time.monotonic() + 600
    while time.monotonic() < until and not (log.exists() and log.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=600) == 1
    (row,) = rows(tmp_path)
    assert row["status"] == "killed: the runner was stopped"
    assert not is_alive(row["rows"][0])


def test_the_rehearsal_runs_on_a_cpu(tmp_path: Path) -> None:
    """Facts, the launches that are compiled ahead, and a bench of the first ratios."""
    names = ["facts", "warm", "b16"]
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--smoke"]
    command += ["--only", ",".join(names), "--seconds", "900", "--out", str(tmp_path)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["stage"]: row for row in rows(tmp_path)}
    assert {name: row["status"] for name, row in found.items()} == dict.fromkeys(
        names, "done"
    ), found
    facts, *rates = found["facts"]["rows"]
    assert facts["not_fused"]
    assert {rate["dtype"] for rate in rates} == {"fp32"}
    assert found["warm"]["rows"][0]["warm"] == "mixer_pico2 train 2"
    benched = {row["competitor"]: row for row in found["b16"]["rows"]}
    assert list(benched) == ["ours", "timm", "compile", "ours-sbc", "ours-sbc-graph"]
    assert float(benched["ours-sbc"]["images_per_s"]) > 0
    assert benched["timm"]["status"] == "timm has no network of this size"


def test_the_list_names_the_stages_in_order(script: Any) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--list"],
        capture_output=True,
        text=True,
        check=True,
    )
    named = [line.split()[0] for line in done.stdout.splitlines()]
    assert named == [one.name for one in script.STAGES]
