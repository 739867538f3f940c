"""Write files atomically: temporary name, fsync, rename, fsync of the folder.

A reader (or a power cut) sees the old bytes or the new ones, never a mixture, and a
failed write leaves nothing behind. The mode of a new file follows the umask.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UserError
from .untrusted.sizes import read_bytes
from .untrusted.text import MOST_JSON, MOST_MARKS, parse_json

# The temporary names of atomic_file, and those of 0.1.0.
_OURS = re.compile(r"\..+\.([0-9a-f]{16}|\d+\.\d+)\.tmp")
# Folders that this process has locked: its record locks do not keep itself out.
_claimed: dict[tuple[int, int, str], object] = {}
_MOST_SHOWN = 300  # letters of a name
# What a list of files takes in JSON, a file.
_ENTRY_BYTES = 200
_ENTRY_MARKS = 4
PathLike = str | os.PathLike[str]


def _refused(doing: str, path: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    if error.errno == errno.ELOOP:
        reason = "it is a link, and nothing is written through links"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free some space" if full else "choose another place"
    return UserError(f"cannot {doing} {str(path)!r}: {reason}; {advice} and try again")


def path_of(text: PathLike) -> Path:
    """Return the path that a text stands for; `~` is the home of a user.

    Args:
        text: What a person wrote. There may be no such file.

    Raises:
        UserError: No file can have this name, or there is no such user.
    """
    try:
        return possible(Path(text).expanduser())
    except RuntimeError as error:
        shown = os.fsdecode(text)[:_MOST_SHOWN]
        raise UserError(f"there is no user whose home is meant by {shown!r}") from error


def possible(path: PathLike) -> Path:
    """Return a path that a file can have; there may be none.

    Args:
        path: What a person or a program gave.

    Raises:
        UserError: No file can have this name.
    """
    try:
        os.lstat(path)
    except (ValueError, OSError) as error:
        # A null byte, or half of a letter, has no number. Of what else is wrong with a
        # file its reader speaks better.
        if getattr(error, "errno", None) in (None, errno.ENAMETOOLONG):
            shown = repr(os.fspath(path))[:_MOST_SHOWN]
            why = getattr(error, "strerror", None) or error
            raise UserError(f"no file can be called {shown}: {why}") from error
    return Path(path)


@contextlib.contextmanager
def refusing(doing: str, path: PathLike) -> Iterator[None]:
    """Turn what the system refuses inside the block into one sentence.

    Args:
        doing: What the block does with the path, such as "write".
        path: The file or folder.

    Raises:
        UserError: The system refuses.
    """
    try:
        yield
    except OSError as error:
        raise _refused(doing, Path(path), error) from error


def append_whole(file: RawIOBase, data: bytes) -> None:
    """Append to an unbuffered file all of the data, or nothing.

    Args:
        file: Open for appending.
        data: What to append; a disk that becomes full takes a part of it first.

    Raises:
        OSError: The disk refuses.
    """
    start = file.seek(0, os.SEEK_END)
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) or 0 :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(start)
        raise


def make_folder(path: PathLike) -> Path:
    """Create a folder and its parents if needed, and return it.

    Raises:
        UserError: The system refuses, or a file has that name.
    """
    folder = possible(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused("create the folder", folder, error) from error
    if not os.access(folder, os.W_OK):
        raise UserError(
            f"cannot write into {str(folder)!r}: permission denied; choose another place "
            "and try again"
        )
    return folder


def refuse_to_replace(*paths: PathLike) -> None:
    """Raise an error if one of the files is there: a person would lose it.

    Args:
        paths: What is about to be written.

    Raises:
        UserError: One of them exists.
    """
    for path in map(possible, paths):
        # Also a link to nowhere: renaming a file onto it would remove the link. A folder
        # is in nobody's danger, and the writer refuses it by that name.
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(
                f"{str(path)!r} exists; choose another name, or use --overwrite to "
                "replace it"
            )


def no_link(path: str, flags: int) -> int:
    """Open a file unless it is a link; to be given to `open` as its opener.

    Args:
        path: The file.
        flags: Of os.open.

    Raises:
        OSError: It is a link (ELOOP), or the system refuses.
    """
    # The umask applies; mkstemp would leave mode 0600 behind.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextlib.contextmanager
def atomic_file(path: PathLike) -> Iterator[BinaryIO]:
    """Open a binary file that appears at `path` only when the block ends well.

    Raises:
        UserError: The disk refuses.
    """
    target = possible(path)
    # Nobody can guess the name and put a link there; "x" takes none that is there.
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}.tmp")
    try:
        make_folder(target.parent)
        with open(temporary, "xb", opener=no_link) as file:
            yield file
            # The bytes must be on the disk before the name is, or a power cut between
            # the two leaves an empty file of the right name.
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise _refused("write", target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def locked_folder(folder: PathLike, name: str = ".claimed") -> Iterator[None]:
    """Lock a folder for the block, so that no other process or thread works in it.

    The lock ends with the process. Between processes it is a record lock of POSIX:
    children do not inherit it, and it works over NFS. On Windows only the threads of
    this process are kept out.

    Args:
        folder: The folder; it exists.
        name: The file that stands for the lock, where only a part of it is locked.

    Raises:
        UserError: Another process or thread holds the lock.
    """
    path = Path(folder) / name
    try:
        status = os.stat(folder)  # noqa: PTH116
    except OSError as error:
        raise _refused("write", path, error) from error
    key = (status.st_dev, status.st_ino, name)
    ours = object()
    # One step, which no other thread can come between.
    if _claimed.setdefault(key, ours) is not ours:
        raise _at_work(folder, "another part of this program")
    try:
        with _record_lock(path):
            yield
    finally:
        _claimed.pop(key, None)


def _at_work(folder: PathLike, who: str) -> UserError:
    return UserError(
        f"{who} is at work in {str(folder)!r}: wait for it, or stop it first"
    )


@contextlib.contextmanager
def _record_lock(path: Path) -> Iterator[None]:
    """Lock a file for the block, and remove it afterwards."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    while True:
        try:
            file = open(path, "a", opener=no_link)  # noqa: SIM115
        except OSError as error:
            raise _refused("write", path, error) from error
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise _at_work(path.parent, "another process") from error
            except OSError:  # a file system without locks
                pass
            # Another process may have removed it between the two steps, and a third
            # one locks a new file of that name.
            if not _is_there(file.fileno(), path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


# A child of `fork` holds none of its parent's locks.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_claimed.clear)


def remove_leftovers(folder: PathLike) -> None:
    """Remove the temporary files that killed writers left directly in a folder.

    Call it only where no other process writes.
    """
    for orphan in Path(folder).glob(".*.tmp"):
        if _OURS.fullmatch(orphan.name):
            # A folder of such a name is nobody's leftover.
            with contextlib.suppress(OSError):
                orphan.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows cannot open folders nor needs it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some network file systems cannot sync folders; the file itself is safe.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def write_bytes(path: PathLike, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Write `data` to `path` atomically: bytes, or parts of them in turn."""
    with atomic_file(path) as file:
        file.writelines([data] if isinstance(data, bytes) else data)


def write_text(path: PathLike, text: str) -> None:
    r"""Write `text` to `path` atomically, as UTF-8.

    A byte of a file's name that is not UTF-8 becomes \udcff, which JSON reads back.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: PathLike, value: Any) -> None:
    """Write `value` to `path` atomically, as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: PathLike, what: str, advice: str, *, entries: int = 0) -> Any:
    """Read a JSON file of a user.

    Args:
        path: The file.
        what: What it should be, such as "configuration", for the error.
        advice: What to do if it is not, for the end of the error.
        entries: How many files it may list; without any it is as short as settings.

    Raises:
        UserError: The file is missing, unreadable, too large or deep, or not JSON in
            UTF-8.
    """
    most = MOST_JSON + entries * _ENTRY_BYTES
    try:
        data = read_bytes(Path(path), most)
        return parse_json(data, most=most, marks=MOST_MARKS + entries * _ENTRY_MARKS)
    except FileNotFoundError as error:
        raise UserError(
            f"cannot read the {what} {str(path)!r}: no such file; {advice}"
        ) from error
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot read the {what} {str(path)!r}: {reason}; {advice}"
        ) from error


def sha256(path: PathLike) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder(*parts: str) -> Path:
    """Return the folder of downloads, or a folder in it.

    It is `$MLP_MIXER_CACHE`, else `$XDG_CACHE_HOME/mlp_mixer`, else
    `~/.cache/mlp_mixer`. A user without a home, as in many containers, has one among the
    temporary files.

    Args:
        parts: Names of folders inside.

    Raises:
        UserError: There is no home, and somebody else has made that temporary folder.
    """
    if own := os.environ.get("MLP_MIXER_CACHE"):
        return Path(own).joinpath(*parts)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches, "mlp_mixer", *parts)
    try:
        return Path.home().joinpath(".cache", "mlp_mixer", *parts)
    except RuntimeError:
        return _cache_without_home().joinpath(*parts)


def _cache_without_home() -> Path:
    """Return a folder of our own among the temporary files of all users."""
    user = os.getuid()
    folder = Path(tempfile.gettempdir(), f"mlp_mixer-{user}")
    with refusing("create the folder", folder):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
        status = folder.lstat()
    # Whoever knows the name may have made it first, to put weights of theirs there.
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == user
    if not ours or status.st_mode & 0o022:
        raise UserError(
            f"{str(folder)!r} belongs to somebody else, and there is no home: set "
            "MLP_MIXER_CACHE to a folder of your own"
        )
    return folder
