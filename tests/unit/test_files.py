import errno
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mlp_mixer import files
from mlp_mixer.errors import UserError
from mlp_mixer.files import locked_folder

posix = pytest.mark.skipif(
    os.name != "posix", reason="umask and resource limits are POSIX"
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def disk_error(number: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_write_and_overwrite_in_a_new_folder(tmp_path):
    target = tmp_path / "a" / "b" / "file"
    files.write_bytes(target, b"\x00old")
    files.write_bytes(str(target), b"\x00new\r\n")
    assert target.read_bytes() == b"\x00new\r\n"
    assert names(target.parent) == ["file"]


def test_text_and_json_are_utf8(tmp_path):
    files.write_text(tmp_path / "text", "größer\n")
    assert (tmp_path / "text").read_bytes() == "größer\n".encode()
    files.write_json(tmp_path / "json", {"größe": [1, None]})
    assert (
        tmp_path / "json"
    ).read_bytes() == '{\n  "größe": [\n    1,\n    null\n  ]\n}\n'.encode()
    assert json.loads((tmp_path / "json").read_text("utf-8")) == {"größe": [1, None]}


@posix
@pytest.mark.parametrize(
    ("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)]
)
def test_mode_follows_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        files.write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_nobody_sees_half_a_file(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with files.atomic_file(target) as file:
        file.write(b"ne")
        file.flush()
        assert target.read_bytes() == b"old"
        file.write(b"w")
    assert target.read_bytes() == b"new"


@posix
def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_we_return(
    tmp_path, monkeypatch
):
    events = []
    fsync = os.fsync
    replace = os.replace

    def recording_fsync(descriptor: int) -> None:
        events.append(
            "sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file"
        )
        fsync(descriptor)

    def recording_replace(source: Path, target: Path) -> None:
        events.append(f"{source.read_bytes()!r} becomes {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    files.write_bytes(tmp_path / "file", b"new")
    assert events == ["sync file", "b'new' becomes file", "sync folder"]


@pytest.mark.parametrize(
    "interruption", [ZeroDivisionError, KeyboardInterrupt, UserError]
)
def test_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    def write_half() -> None:
        with files.atomic_file(tmp_path / "file") as file:
            file.write(b"new")
            raise interruption

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(interruption):
        write_half()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with files.atomic_file(tmp_path / "file") as slow:
        slow.write(b"slow")
        files.write_bytes(tmp_path / "file", b"fast")
        assert (tmp_path / "file").read_bytes() == b"fast"
    assert (tmp_path / "file").read_bytes() == b"slow"
    assert names(tmp_path) == ["file"]


@posix
def test_folders_that_cannot_be_synced_are_no_error(tmp_path, monkeypatch):
    """Some network and FUSE file systems answer fsync of a folder with EINVAL."""
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    files.write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "Permission denied; choose another place"),
        (errno.EROFS, "choose another place"),
    ],
)
def test_refusing_disk_leaves_the_old_file_and_says_what_to_do(
    tmp_path, monkeypatch, call, number, advice
):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, disk_error(number))
        with pytest.raises(UserError, match=advice) as raised:
            files.write_bytes(target, b"new")
    assert f"cannot write {str(target)!r}" in str(raised.value)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@posix
def test_full_disk_for_real(tmp_path):
    """A limit on the size of files fails in the middle of the data, as a full disk
    does.
    """
    (tmp_path / "file").write_bytes(b"old")
    program = (
        "import resource, sys; from mlp_mixer import files, errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: files.write_bytes(sys.argv[1], bytes(100_000))\n"
        "except errors.UserError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large; free some space and try again" in answer.stdout
    assert answer.stderr == ""
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(
        UserError, match=r"cannot create the folder '.*/file': .* choose another place"
    ):
        files.make_folder(tmp_path / "file")
    for target in (tmp_path / "file" / "new", tmp_path / "file" / "deeper" / "new"):
        with pytest.raises(UserError, match="cannot create the folder"):
            files.write_bytes(target, b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write '.*/folder': Is a directory"):
        files.write_bytes(tmp_path / "folder", b"new")
    assert names(tmp_path) == ["folder"]


def test_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(
        UserError,
        match=r"cannot write into '.*': permission denied; choose another place",
    ):
        files.write_bytes(tmp_path / "file", b"new")
    assert names(tmp_path) == []


def test_make_folder_returns_what_it_made(tmp_path):
    assert files.make_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert files.make_folder(tmp_path / "a" / "b").is_dir()  # a second time is no error


@pytest.mark.parametrize("size", [0, 1, 1_000_003])
def test_sha256(tmp_path, size):
    (tmp_path / "file").write_bytes(b"m" * size)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(b"m" * size).hexdigest()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            {"MLP_MIXER_CACHE": "/own", "XDG_CACHE_HOME": "/xdg", "HOME": "/home"},
            "/own/a/b",
        ),
        (
            {"MLP_MIXER_CACHE": "", "XDG_CACHE_HOME": "/xdg", "HOME": "/home"},
            "/xdg/mlp_mixer/a/b",
        ),
        ({"XDG_CACHE_HOME": "", "HOME": "/home"}, "/home/.cache/mlp_mixer/a/b"),
    ],
)
def test_cache_folder(monkeypatch, environment, expected):
    for name in ("MLP_MIXER_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert files.cache_folder("a", "b") == Path(expected)


def test_sweep_takes_only_our_own_leftovers(tmp_path):
    (tmp_path / "below").mkdir()
    theirs = [
        tmp_path / ".cache.tmp",
        tmp_path / "x.1.2.tmp",
        tmp_path / "below" / ".best.safetensors.7.0.tmp",
    ]
    for path in [*theirs, tmp_path / ".best.safetensors.7.0.tmp"]:
        path.write_bytes(b"")
    files.remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        theirs
    )


def test_a_killed_writers_leftover_is_recognised(tmp_path):
    """The name that atomic_file writes under is one that sweep knows."""
    with files.atomic_file(tmp_path / ("long name" * 10)) as file:
        file.write(b"x")
        (temporary,) = tmp_path.iterdir()
    temporary.write_bytes(b"left behind")
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["long name" * 10]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no record locks")
def test_a_folder_is_claimed_by_one_process_and_free_when_that_is_killed(
    tmp_path: Path,
) -> None:
    script = (
        "import sys, time; from mlp_mixer.files import locked_folder\n"
        "with locked_folder(sys.argv[1]): print(1, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    with other:
        other.stdout.readline()
        with (
            pytest.raises(
                UserError, match="another process is at work in .*wait for it"
            ),
            locked_folder(tmp_path),
        ):
            pass
        other.kill()
    with locked_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_claimed_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="cannot write"),
        locked_folder(tmp_path / "absent"),
    ):
        pass


class Filling(io.FileIO):
    """A file on a disk that becomes full, which takes a few bytes at a time before."""

    room = 10

    def write(self, data) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(3, self.room, len(data))
        self.room -= taken
        return super().write(data[:taken])


def test_what_is_appended_is_whole_or_absent(tmp_path):
    with Filling(tmp_path / "lines", "a") as file:
        files.append_whole(file, b"12345\n")
        with pytest.raises(OSError, match="No space left"):
            files.append_whole(file, b"67890\n")
        assert (tmp_path / "lines").read_bytes() == b"12345\n"
        file.room = 100
        files.append_whole(file, b"67890\n")
    assert (tmp_path / "lines").read_bytes() == b"12345\n67890\n"


def test_what_the_system_refuses_is_one_sentence(tmp_path):
    refused = pytest.raises(UserError, match="cannot look at '.*x': No such file")
    with refused, files.refusing("look at", tmp_path / "x"):
        (tmp_path / "x").stat()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("y" * 5000, "too long"),
        ("é" * 200, "too long"),
        ("a\0b", "null byte"),
        ("\ud800", "surrogates"),
        ("~nobody-of-this-name/photos", "there is no user"),
    ],
)
def test_names_that_no_file_can_have(name, reason):
    with pytest.raises(UserError, match=reason):
        files.path_of(name)


@pytest.mark.parametrize("name", ["absent", "a/b", "é" * 60, "\udcff", "~/x", ""])
def test_names_that_a_file_can_have(name):
    assert files.path_of(name) == Path(name).expanduser()
