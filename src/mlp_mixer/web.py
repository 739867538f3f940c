"""Download files: whole and checked into a folder, or some bytes into memory.

A file that is fetched grows in `.NAME.part` and gets its name by a rename after every
check: a file that is there is right, and the network is not asked again. Two versions
of a file never mix: `.NAME.version` remembers the ETag or Last-Modified of the first
part, and a known SHA-256 decides.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from filelock import FileLock

from .errors import UserError
from .files import make_folder, no_link, write_text
from .remote import Body, CutError, StaleError, offline, open_remote, web_address

# Seconds before each attempt; after the last, what has come waits for the next call.
WAITS = (0.0, 0.5, 1.0, 2.0, 4.0)
# Where no server tells the length, an endless answer must stop before the disk is full.
MAX_BYTES = 16 * 2**30

_LONGEST_NAME = 200  # letters, so that the names beside it (.NAME.version) fit as well
_WEB_PAGE = (
    "gave a web page, not a file: log in to the network, or download it in a browser"
)

T = TypeVar("T")

__all__ = [
    "fetch",
    "fetch_bytes",
    "fetch_part",
    "fetch_small",
    "file_name",
    "join",
    "offline",
]


def join(address: str, name: str) -> str:
    """Return the address of a file in a folder.

    Args:
        address: Of the folder.
        name: Of the file.

    Raises:
        UserError: The address has a user, a query or a fragment, which could be a key.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.query or parts.fragment or parts.username:
        raise UserError(
            f"cannot use the address of {parts.path!r}: expected one without user, ? "
            "and #"
        )
    return f"{address.rstrip('/')}/{name}"


def file_name(url: str) -> str:
    """Return the last part of a web address as a file name.

    It is visible, ASCII, and short enough for the files beside it.

    Raises:
        UserError: The address has no such part.
    """
    path = urllib.parse.unquote(urllib.parse.urlsplit(web_address(url)).path)
    last = re.split(r"[/\\]", path)[-1]
    name = re.sub(r"[^\w.+-]", "_", last, flags=re.ASCII).lstrip(".")
    if not name:
        raise UserError(
            f"cannot name the file at {url!r}: expected an address that ends like "
            "/model.safetensors"
        )
    return name[-_LONGEST_NAME:]


def fetch(
    url: str,
    target: Path,
    size: int | None = None,
    sha256: str = "",
    *,
    bar: bool = False,
) -> Path:
    """Download a file unless it is there; one process at a time.

    The next call continues what was cut.

    Args:
        url: Of the web (redirects must not leave it) or of an object store.
        target: Where the file belongs; its folder is created if needed.
        size: Exact length in bytes, if it is known.
        sha256: Hexadecimal digest, or its first digits as in the names of files.
            Without size and hash, a wrong Content-Length cannot be noticed.
        bar: Show a progress bar on stderr, if that is a terminal.

    Returns:
        `target`.

    Raises:
        UserError: Offline mode; the server refuses, or fails at each of the `WAITS`;
            the answer is a web page, or has another length or hash; or the disk refuses.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        if target.is_file():
            return target
        if variable := offline():
            raise UserError(
                f"cannot download {url}: the network is switched off; put the file at "
                f"{str(target.absolute())!r}, or unset {variable}"
            )
        make_folder(target.parent)
        with FileLock(target.with_name(f".{target.name}.lock")):
            # Another process may have brought it while this one waited for the lock.
            if not target.is_file():
                _retry(lambda: _download(url, part, size, sha256.lower(), bar))
                # The folder is not synced: a power cut could cost the download, but
                # nothing else.
                part.replace(target)
                _forget(part)
    except OSError as error:  # of the disk: those of the network are UserErrors by now
        raise UserError(
            f"cannot write {str(target)!r}: {error.strerror or error}; free some space, "
            "or choose another place"
        ) from error
    return target


def fetch_part(url: str, start: int, size: int) -> bytes:
    """Return exactly `size` bytes of a file, from position `start` on.

    Raises:
        UserError: They cannot be had, or the server gives whole files only.
    """

    def attempt() -> bytes:
        data = bytearray()
        with open_remote(url, start, start + size) as body:
            if body.start != start:
                raise UserError(
                    f"{url} comes only as a whole: unset MLP_MIXER_SHARD_CACHE to keep "
                    "whole shards"
                )
            for piece in body.pieces:
                data += piece
                if len(data) >= size:
                    break
        if len(data) < size:
            raise CutError(
                f"{url} gave {len(data)} of the {size} bytes from {start} on; try again"
            )
        return bytes(data[:size])

    return _retry(attempt)


def fetch_small(url: str, limit: int) -> bytes:
    """Return a file of at most `limit` bytes.

    Raises:
        UserError: It is larger, or cannot be had.
    """
    return _retry(lambda: _read_all(url, limit))


def fetch_bytes(url: str, *, limit: int = 64 * 2**20, seconds: float = 30) -> bytes:
    """Return the file at a web address, such as a picture.

    Args:
        url: An http or https address.
        limit: Bytes at most.
        seconds: Of waiting at most.

    Raises:
        UserError: It is larger, takes longer, or cannot be had.
    """
    address = web_address(url)
    stop = time.monotonic() + seconds
    answer = Future[bytes]()

    def get() -> None:
        try:
            answer.set_result(_read_all(address, limit, stop))
        except Exception as error:
            answer.set_exception(error)

    # A thread, because neither the search for the host's address nor headers that
    # arrive drop by drop obey a time-out.
    threading.Thread(target=get, name="fetch_bytes", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        raise UserError(
            f"{url} took longer than {seconds:g} seconds; save it as a file first"
        ) from None


def _retry(attempt: Callable[[], T]) -> T:
    """Call until it succeeds, fails for good, or every wait is used."""
    for wait in WAITS:
        time.sleep(wait)
        try:
            return attempt()
        except CutError as error:
            cut = error
    raise UserError(str(cut)) from cut


def _download(url: str, part: Path, size: int | None, sha256: str, bar: bool) -> None:
    """Ask for the bytes that are missing, append them, and check the whole."""
    start, version = _begun(part, url, sha256)
    try:
        with open_remote(url, start, size) as body:
            expected = body.total if size is None else size
            if body.page:
                # Perhaps the login page of a network: keep the real server's bytes.
                raise UserError(f"{url} {_WEB_PAGE}")
            if body.start and version not in ("", body.version):
                raise StaleError(f"{url} keeps changing; try again later")
            if body.total not in (None, expected):
                raise StaleError(
                    f"{url} has {body.total} bytes, expected {size}: changed, or another "
                    "file"
                )
            if not body.start:
                _forget(part)
                write_text(
                    part.with_suffix(".version"), f"{_identity(url)}\n{body.version}"
                )
            _append(url, part, body, expected, sha256, bar)
    except StaleError as error:
        _forget(part)
        # With a fresh start the next attempt may succeed; without one it was fresh.
        raise (CutError if start else UserError)(str(error)) from error


def _append(
    url: str, part: Path, body: Body, expected: int | None, sha256: str, bar: bool
) -> None:
    mode: Literal["r+b", "w+b"] = "r+b" if body.start else "w+b"
    with open(part, mode, opener=no_link) as file:
        # The digest of the bytes that are there; reading them leaves the file's
        # position behind them.
        digest = hashlib.file_digest(file, "sha256")
        have = file.tell()
        most = MAX_BYTES if expected is None else expected
        pieces = body.pieces
        if bar:
            pieces = _with_bar(pieces, url, have, expected)
        for piece in pieces:
            have += len(piece)
            if have > most:
                raise StaleError(
                    f"{url} does not end after {most} bytes: it is not the file that "
                    "was promised"
                )
            file.write(piece)
            digest.update(piece)
        if have < (expected or 1):
            raise CutError(
                f"{url} ended after {have} of {expected or 'all its'} bytes; try again "
                "to get the rest"
            )
        if _is_web_page(file):
            raise StaleError(f"{url} {_WEB_PAGE}")
        found = digest.hexdigest()
        if not found.startswith(sha256):
            raise StaleError(
                f"{url} has the SHA-256 {found}, expected {sha256}: damaged, or another"
            )
        os.fsync(file.fileno())


def _is_web_page(file: BinaryIO) -> bool:
    """Whether a file begins as HTML does; not every server says so in its headers."""
    file.seek(0)
    beginning = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return beginning.startswith((b"<!doctype", b"<html"))


def _begun(part: Path, url: str, sha256: str) -> tuple[int, str]:
    """Return how many bytes of which version an earlier attempt left.

    Without a version or a hash, nothing could tell that the rest fits: then 0.
    """
    with suppress(OSError, ValueError):
        origin, version = part.with_suffix(".version").read_text("utf-8").split("\n")
        if origin in (_identity(url), url) and (version or sha256):
            return part.stat().st_size, version
    return 0, ""


def _identity(url: str) -> str:
    """Return what tells an address from others, but no key that it may hold."""
    return f"sha256:{hashlib.sha256(url.encode()).hexdigest()}"


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".version").unlink(missing_ok=True)


def _read_all(url: str, limit: int, until: float = float("inf")) -> bytes:
    """Return a whole file of at most `limit` bytes, before `until` on the clock."""
    data = bytearray()
    with open_remote(url) as body:
        total = body.total or 0
        # A file that says it is too large is not read at all.
        while max(len(data), total) <= limit:
            piece = next(body.pieces, b"")
            if not piece:
                break
            data += piece
            if time.monotonic() > until:  # nobody waits for it any more
                raise TimeoutError
    if max(len(data), total) > limit:
        raise UserError(
            f"{url} has more than {limit} bytes: it is not what was expected, or must "
            "be a file first"
        )
    if len(data) < total:
        raise CutError(f"{url} ended after {len(data)} of {total} bytes; try again")
    return bytes(data)


def _with_bar(
    pieces: Iterator[bytes], url: str, have: int, total: int | None
) -> Iterator[bytes]:
    """Yield the same pieces, and show a bar on stderr if that is a terminal."""
    # A service may have closed stderr: then it is None.
    if not (sys.stderr and sys.stderr.isatty()):
        yield from pieces
        return
    bars: Any = importlib.import_module("huggingface_hub.utils")  # untyped
    name = urllib.parse.urlsplit(url).path.rpartition("/")[2]
    with bars.tqdm(
        desc=name, initial=have, total=total, unit="B", unit_scale=True
    ) as bar:
        for piece in pieces:
            bar.update(len(piece))
            yield piece
