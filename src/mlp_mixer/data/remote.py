"""Bytes from the web or an object store: whole files into a cache, resumed and checked, or one part of a file.

http and https go through urllib, every other scheme (s3, gs, ...) through fsspec. A whole file grows in `.NAME.part`
and gets its name when its SHA-256 is right, so a file that is there needs no check and no network.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from .._version import __version__
from ..errors import UserError
from ..files import make_folder
from ..files import sha256 as sha256_of

WAITS = (0.0, 0.5, 1.0, 2.0, 4.0)  # seconds before each attempt; then what came is kept for the next call
SECONDS = 30.0  # a server that is silent for so long has cut the connection
_PIECE = 2**20  # bytes, at most, of one reading

T = TypeVar("T")


class _CutError(UserError):
    """Another attempt may mend it, and continues with what has come."""


def is_address(place: str) -> bool:
    """Whether a place is an address such as https://host/folder or s3://bucket/folder, and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def join(address: str, name: str) -> str:
    """The address of a file in the folder at `address`; `UserError` where it carries a query, which could be a key."""
    parts = urllib.parse.urlsplit(address)
    if parts.query or parts.fragment or parts.username:
        raise UserError(f"cannot use the address of {parts.path!r}: expected one without user, ? and #")
    return f"{address.rstrip('/')}/{name}"


def fetch(url: str, target: Path, size: int, sha256: str) -> Path:
    """Bring a file of known size and SHA-256 to `target` unless it is there; one process at a time does it.

    Raises:
        UserError: offline mode; the server refuses, or fails at each of the `WAITS`; another size or hash; the disk.
    """
    if not target.is_file():
        refuse_offline(url)
        make_folder(target.parent)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_file():  # another process may have brought it while this one waited
                _insist(lambda: _bring(url, target, size, sha256))
    return target


def fetch_part(url: str, start: int, size: int) -> bytes:
    """Exactly `size` bytes of a file from `start` on, or `UserError`."""
    refuse_offline(url)
    return _insist(lambda: _part(url, start, size))


def fetch_small(url: str, limit: int) -> bytes:
    """A whole file of at most `limit` bytes, or `UserError`."""
    refuse_offline(url)
    body = _insist(lambda: b"".join(piece for _, piece in _pieces(url, 0, limit + 1)))
    if len(body) > limit:
        raise UserError(f"{url} has more than {limit} bytes: it is not the file that was expected")
    return body


def offline() -> bool:
    """Whether `MLP_MIXER_OFFLINE` or `HF_HUB_OFFLINE` is 1, true, yes or on: then nothing here uses the network."""
    return any(
        os.environ.get(f"{who}_OFFLINE", "").lower() in {"1", "true", "yes", "on"} for who in ("MLP_MIXER", "HF_HUB")
    )


def refuse_offline(url: str) -> None:
    """`UserError` in offline mode."""
    if offline():
        raise UserError(f"cannot read {url}: the network is switched off; unset MLP_MIXER_OFFLINE and HF_HUB_OFFLINE")


def _insist(attempt: Callable[[], T]) -> T:
    failure = ""
    for wait in WAITS:
        time.sleep(wait)
        try:
            return attempt()
        except _CutError as error:
            failure = str(error)
    raise UserError(failure)


def _bring(url: str, target: Path, size: int, sha256: str) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        began = have = part.stat().st_size if part.is_file() else 0
        with part.open("r+b" if have else "wb") as file:
            for offset, piece in _pieces(url, began, size) if began < size else ():
                file.seek(offset)
                file.write(piece)
                have = offset + len(piece)
            os.fsync(file.fileno())
        if have < size:
            raise _CutError(f"{url} ended after {have} of {size} bytes; try again to get the rest")
        if sha256_of(part) == sha256:
            part.replace(target)
            return
        part.unlink()
    except OSError as error:
        advice = "free some space, or set MLP_MIXER_CACHE to another place"
        raise UserError(f"cannot write {str(target)!r}: {error.strerror or error}; {advice}") from error
    kind = _CutError if began else UserError  # bytes of an older version may have been among them
    raise kind(f"{url} has another SHA-256 than its dataset.json says: it is damaged, or has been replaced")


def _part(url: str, start: int, size: int) -> bytes:
    body = bytearray()
    for offset, piece in _pieces(url, start, start + size):
        if offset != start + len(body):
            raise UserError(f"{url} comes only as a whole: unset MLP_MIXER_SHARD_CACHE to keep whole shards")
        body += piece
    if len(body) != size:
        raise _CutError(f"{url} gave {len(body)} of the {size} bytes from {start} on; try again")
    return bytes(body)


def _pieces(url: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Bytes of a file with their offsets, from `start` (or 0 where the server knows no parts) to `stop` at most."""
    try:
        for offset, piece in (_from_web if url.lower().startswith(("http:", "https:")) else _from_store)(
            url, start, stop
        ):
            yield offset, piece[: stop - offset]
            if offset + len(piece) >= stop:
                return
    except urllib.error.HTTPError as error:
        error.close()
        kind = _CutError if error.code in (408, 429) or error.code >= 500 else UserError
        raise kind(f"{url} answered {' '.join(str(error).split())}; check the address, or try later") from error
    except FileNotFoundError as error:
        raise UserError(f"there is no {url}: check the address") from error
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise _CutError(f"cannot read {url}: {reason}; check the address and the connection") from error


def _from_web(url: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    headers = {"User-Agent": f"mlp-mixer/{__version__}", "Range": f"bytes={start}-{stop - 1}"}
    request = urllib.request.Request(urllib.parse.quote(url, safe=string.punctuation), headers=headers)
    with _opener().open(request, timeout=SECONDS) as response:
        told = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        offset = int(told[1]) if told and response.status == 206 else 0
        while piece := response.read1(_PIECE):
            yield offset, piece
            offset += len(piece)


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """One that stays on the web: the usual one follows a redirect to ftp, too."""
    opener = urllib.request.OpenerDirector()
    for name in ("Proxy", "HTTP", "HTTPS", "HTTPDefaultError", "HTTPRedirect", "Unknown"):
        opener.add_handler(getattr(urllib.request, f"{name}Handler")())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    return opener


def _from_store(url: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    try:
        fsspec: Any = importlib.import_module("fsspec")  # which has no types

        store, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot open {url}: {error}; try `pip install 'mlp-mixer[cloud]'`") from error
    while start < stop:
        try:
            piece = store.cat_file(path, start=start, end=min(start + 16 * _PIECE, stop))
        except FileNotFoundError:
            raise
        except Exception as error:  # each store has errors of its own
            raise OSError(f"{type(error).__name__}: {error}") from error
        yield start, piece
        start += len(piece)
        if len(piece) < 16 * _PIECE:
            return
