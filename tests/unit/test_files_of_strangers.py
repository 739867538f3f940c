"""Files of ours where others may write too: no link is followed, no name is guessed."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mlp_mixer import files
from mlp_mixer.errors import UserError
from mlp_mixer.files import atomic_file, cache_folder, locked_folder, no_link
from mlp_mixer.training.journal import Journal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links of POSIX")


def test_temporary_names_are_new_each_time_and_not_to_be_guessed(
    tmp_path: Path,
) -> None:
    seen = set()
    for _ in range(20):
        with atomic_file(tmp_path / "file"):
            (temporary,) = (path for path in tmp_path.iterdir() if path.name[0] == ".")
            seen.add(temporary.name)
            assert str(os.getpid()) not in temporary.name.split(".")
    assert len(seen) == 20


@pytest.mark.parametrize("what", ["a link", "a link to nowhere", "a file", "a folder"])
def test_a_temporary_name_that_is_taken_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Somebody has guessed the name after all."""
    monkeypatch.setattr("secrets.token_hex", lambda _: "0123456789abcdef")
    trap = tmp_path / ".file.0123456789abcdef.tmp"
    own = tmp_path / "own"
    own.write_text("own")
    if what == "a folder":
        trap.mkdir()
    elif what == "a file":
        trap.write_text("trap")
    else:
        trap.symlink_to(own if what == "a link" else tmp_path / "new")
    with pytest.raises(UserError, match="cannot write"):
        files.write_bytes(tmp_path / "file", b"secret")
    assert own.read_text() == "own"
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "file").exists()


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("own")
    (tmp_path / "file").symlink_to(own)
    files.write_bytes(tmp_path / "file", b"new")
    assert own.read_text() == "own"
    assert (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("mode", ["ab", "wb", "r+b", "xb"])
def test_nothing_is_opened_through_a_link(tmp_path: Path, mode: str) -> None:
    own = tmp_path / "own"
    own.write_text("own")
    for name, target in (("a", own), ("b", tmp_path / "new")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(OSError, match=r"."):  # noqa: SIM117
            with open(tmp_path / name, mode, opener=no_link):
                pass
    assert own.read_text() == "own"
    assert not (tmp_path / "new").exists()


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / ".claimed").symlink_to(tmp_path / "new")
    with pytest.raises(UserError, match="it is a link, and nothing is written"):  # noqa: SIM117
        with locked_folder(tmp_path):
            pass
    assert not (tmp_path / "new").exists()
    assert (tmp_path / ".claimed").is_symlink()


def test_a_journal_is_no_link(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("own\n")
    out = tmp_path / "run"
    out.mkdir()
    journal = Journal(out, from_step=0)
    journal.path.unlink()
    journal.path.symlink_to(own)
    with pytest.raises(UserError, match="cannot write"):
        journal.append({"kind": "note", "step": 0})
    assert own.read_text() == "own\n"


def refused_inside(folder: Path, name: str = ".claimed") -> str:
    """What a second claim says; "" if it gets through."""
    try:
        with locked_folder(folder, name):
            return ""
    except UserError as error:
        return str(error)


def test_a_folder_is_claimed_once_within_a_process(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    with locked_folder(tmp_path / "folder"):
        for same in ("folder", "link", "folder/../folder", "./folder/."):
            told = refused_inside(tmp_path / same)
            assert "another part of this program is at work" in told
        assert refused_inside(tmp_path / "folder", ".another") == ""
        # A refused claim does not take the lock of the first one away.
        assert "another part" in refused_inside(tmp_path / "folder")
    assert refused_inside(tmp_path / "folder") == ""
    assert [path.name for path in (tmp_path / "folder").iterdir()] == []


def test_of_many_threads_one_gets_the_folder(tmp_path: Path) -> None:
    begin = threading.Barrier(8)
    told: list[str] = []
    inside = threading.Event()

    def claim() -> None:
        begin.wait()
        try:
            with locked_folder(tmp_path):
                inside.wait(300)
                told.append("")
        except UserError as error:
            told.append(str(error))
            if len(told) == 7:
                inside.set()

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(bool, told)) == [False] + 7 * [True]


def _tell(folder: Path, answer: Any) -> None:
    answer.put(refused_inside(folder))


def test_a_forked_child_is_kept_out_while_its_parent_is_at_work(tmp_path: Path) -> None:
    """And gets in afterwards, although it remembers what its parent had claimed."""
    fork = multiprocessing.get_context("fork")
    answer = fork.Queue()
    with locked_folder(tmp_path):
        child = fork.Process(target=_tell, args=(tmp_path, answer))
        child.start()
        assert "another process is at work" in answer.get(timeout=600)
        child.join()
    read, write = os.pipe()
    with locked_folder(tmp_path):
        number = os.fork()
        if not number:
            os.close(write)
            os.read(read, 1)
            os._exit(bool(refused_inside(tmp_path)))
    os.close(write)
    os.close(read)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 0


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last owner removes it between our opening and our locking of it."""
    import fcntl

    real = fcntl.lockf
    calls = []

    def racing(file: Any, how: int) -> None:
        if not calls:
            (tmp_path / ".claimed").unlink()
        calls.append(how)
        real(file, how)

    monkeypatch.setattr(fcntl, "lockf", racing)
    with locked_folder(tmp_path):
        assert (tmp_path / ".claimed").exists()
    assert len(calls) == 2


def test_a_cache_without_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLP_MIXER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = cache_folder("weights")
    assert folder == tmp_path / f"mlp_mixer-{os.getuid()}" / "weights"
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == folder.parent
    # Somebody else may have made it first: open to all, or a link.
    folder.parent.chmod(0o777)
    with pytest.raises(
        UserError, match="belongs to somebody else, and there is no home"
    ):
        cache_folder()
    folder.parent.rmdir()
    (tmp_path / "trap").mkdir(0o700)
    folder.parent.symlink_to(tmp_path / "trap")
    with pytest.raises(UserError, match="set MLP_MIXER_CACHE to a folder of your own"):
        cache_folder()
    folder.parent.unlink()
    folder.parent.mkdir(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (tmp_path / "mlp_mixer-12345").mkdir(0o700)
    with pytest.raises(UserError, match="belongs to somebody else"):
        cache_folder()


# A user of a number alone, whom the system does not know, as OpenShift makes them.
_NOBODY = """
import os, pwd, sys
def unknown(*_):
    raise KeyError("getpwuid(): uid not found: 12345")
pwd.getpwuid = pwd.getpwnam = unknown
from mlp_mixer.cli import main
for command in sys.argv[1:]:
    sys.argv = ["mlp-mixer", *command.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
"""


_VERBS = (
    "doctor",
    "data sample digits --out pictures --count 1",
    "predict pictures --out answers.csv",
    "train digits --out run --set train.steps=1 --set train.batch_size=8",
)


# Nobody, not even root, can make a folder below the second one.
@pytest.mark.parametrize(
    ("home", "verbs"), [(None, _VERBS), ("/proc/self", _VERBS[:1])]
)
def test_a_container_without_a_home(
    tmp_path: Path, home: str | None, verbs: tuple[str, ...]
) -> None:
    """`doctor`, an answer of the bundled weights, and one step of training."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "MLP_MIXER_CACHE", "XDG_CACHE_HOME", "USER", "LOGNAME")
    }
    environment |= {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    if home is not None:
        environment["HOME"] = home
    done = subprocess.run(
        [sys.executable, "-c", _NOBODY, *verbs],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if verbs == _VERBS:
        assert (tmp_path / "answers.csv").exists()
        assert (tmp_path / "run/last.safetensors").exists()
        assert (tmp_path / f"mlp_mixer-{os.getuid()}").is_dir()
    # No folder is called "~", as where a home is put together and not asked for.
    assert not (tmp_path / "~").exists()
