"""Files from the web or an object store: whole and checked in a folder, or some bytes
of them in memory.

http and https go through urllib, s3, gs and their like through fsspec. A file that is
fetched grows in `.NAME.part` and gets its name by a rename after every check: what is
there is right, and the network is not asked again. Two versions of a file never mix:
`.NAME.version` remembers the ETag or Last-Modified of what came, and a known SHA-256
judges.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import string
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from filelock import FileLock

from ._version import __version__
from .errors import UserError
from .files import make_folder, write_text

WAITS = (
    0.0,
    0.5,
    1.0,
    2.0,
    4.0,
)  # seconds before each attempt; then what came is kept for the next call
READ_SECONDS = 30.0  # a server that is silent for so long has cut the connection
MAX_BYTES = (
    16 * 2**30
)  # where nobody tells the length: an endless answer must stop before the disk is full
_PIECE = (
    2**20
)  # bytes, at most, of one reading; an object store is asked for 16 at once
_WEB_PAGE = (
    "gave a web page, not a file: log in to the network, or download it in a browser"
)

T = TypeVar("T")


class _CutError(UserError):
    """Another attempt may mend it, and continues with what has come."""


class _StaleError(UserError):
    """This is not the rest of what came before, or not the file that was asked for:
    nothing of it stays.
    """


class _Body(NamedTuple):
    """The bytes of a file from `start` on as they come; its length and version, if the
    server tells them.
    """

    start: int
    pieces: Iterator[bytes]
    total: int | None = None
    version: str = ""
    page: bool = False


def offline() -> str:
    """Which of `MLP_MIXER_OFFLINE` and `HF_HUB_OFFLINE` are 1, true, yes or on: if any
    is, nothing uses the network.
    """
    names = ("MLP_MIXER_OFFLINE", "HF_HUB_OFFLINE")
    on = {"1", "true", "yes", "on"}
    return " and ".join(
        name for name in names if os.environ.get(name, "").lower() in on
    )


def join(address: str, name: str) -> str:
    """The address of a file in the folder at `address`; `UserError` where it carries a
    query, which could be a key.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.query or parts.fragment or parts.username:
        raise UserError(
            f"cannot use the address of {parts.path!r}: expected one without user, ? and #"
        )
    return f"{address.rstrip('/')}/{name}"


def file_name(url: str) -> str:
    """The last part of a web address as a visible name of a file, short enough for the
    names of its companions.
    """
    wanted = urllib.parse.unquote(urllib.parse.urlsplit(_web_address(url)).path)
    name = re.sub(
        r"[^\w.+-]", "_", re.split(r"[/\\]", wanted)[-1], flags=re.ASCII
    ).lstrip(".")[-200:]
    if not name:
        raise UserError(
            f"cannot name the file at {url!r}: expected an address that ends like /model.safetensors"
        )
    return name


def fetch(
    url: str,
    target: Path,
    size: int | None = None,
    sha256: str = "",
    *,
    bar: bool = False,
) -> Path:
    """Bring a file to `target` unless it is there, one process at a time; the next call
    continues what was cut.

    url: of the web (which is not left by redirects) or an object store. target: its
        folder is created if needed.
    size: exact length in bytes. sha256: hexadecimal digest, or its first digits as in
        names of files; without either,
    a server that promises too little and keeps to it is believed. bar: show one on
    stderr, if a person looks at it. `UserError`: offline mode; the server refuses, or
    fails at each of the `WAITS`; what came is a web page, or has another length or
    hash; the disk refuses.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        if target.is_file():
            return target
        if on := offline():
            advice = f"put the file at {str(target.absolute())!r}, or unset {on}"
            raise UserError(
                f"cannot download {url}: the network is switched off; {advice}"
            )
        make_folder(target.parent)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if (
                not target.is_file()
            ):  # another process may have brought it while this one waited
                _insist(lambda: _bring(url, part, size, sha256.lower(), bar))
                part.replace(
                    target
                )  # its folder is not synced: a power cut could cost the download, nothing else
                _forget(part)
    except (
        OSError
    ) as error:  # the disk's: those of the network have become `UserError`s
        reason = f"{error.strerror or error}; free some space, or choose another place"
        raise UserError(f"cannot write {str(target)!r}: {reason}") from error
    return target


def fetch_part(url: str, start: int, size: int) -> bytes:
    """Exactly `size` bytes from `start` on of a file of the web or an object store, or
    `UserError`.
    """

    def attempt() -> bytes:
        with _open(url, start, start + size) as body:
            if body.start != start:
                raise UserError(
                    f"{url} comes only as a whole: unset MLP_MIXER_SHARD_CACHE to keep whole shards"
                )
            data = bytearray()
            while len(data) < size and (piece := next(body.pieces, b"")):
                data += piece
        if len(data) < size:
            raise _CutError(
                f"{url} gave {len(data)} of the {size} bytes from {start} on; try again"
            )
        return bytes(data[:size])

    return _insist(attempt)


def fetch_small(url: str, limit: int) -> bytes:
    """A file of at most `limit` bytes of the web or an object store, or `UserError`."""
    return _insist(lambda: _whole(url, limit))


def fetch_bytes(url: str, *, limit: int = 64 * 2**20, seconds: float = 30) -> bytes:
    """What lies at an http(s) address, such as a picture: at most `limit` bytes, in at
    most `seconds`, or `UserError`.

    A thread does it, for neither the search for the host's address nor headers that
    come drop by drop heed a timeout.
    """
    address = _web_address(url)
    stop = time.monotonic() + seconds
    answer = Future[bytes]()

    def get() -> None:
        try:
            answer.set_result(_whole(address, limit, stop))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=get, name="fetch_bytes", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        raise UserError(
            f"{url} took longer than {seconds:g} seconds; save it as a file first"
        ) from None


def _web_address(url: str) -> str:
    """The URL with blanks and letters beyond ASCII encoded; `file:` and its like are
    refused.
    """
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return urllib.parse.quote(url.strip(), safe=string.punctuation)
    raise UserError(
        f"cannot download {url!r}: expected an address that begins with http:// or https://"
    )


def _insist(attempt: Callable[[], T]) -> T:
    for wait in WAITS:
        time.sleep(wait)
        try:
            return attempt()
        except _CutError as error:
            cut = error
    raise UserError(str(cut)) from cut


def _bring(url: str, part: Path, size: int | None, sha256: str, bar: bool) -> None:
    """Ask for what is missing, append it, and judge the whole."""
    start, version = _begun(part, url, sha256)
    try:
        with _open(url, start, size) as body:
            expected = body.total if size is None else size
            if body.page:  # a captive portal, maybe: keep what the real server sent
                raise UserError(f"{url} {_WEB_PAGE}")
            if body.start and version not in ("", body.version):
                raise _StaleError(f"{url} keeps changing; try again later")
            if body.total not in (None, expected):
                raise _StaleError(
                    f"{url} has {body.total} bytes, expected {size}: changed, or another file"
                )
            if not body.start:
                _forget(part)
                write_text(part.with_suffix(".version"), f"{url}\n{body.version}")
            _append(url, part, body, expected, sha256, bar)
    except _StaleError as error:
        _forget(part)
        raise (_CutError if start else UserError)(str(error)) from error


def _append(
    url: str, part: Path, body: _Body, expected: int | None, sha256: str, bar: bool
) -> None:
    with part.open("r+b" if body.start else "w+b") as file:
        digest = hashlib.file_digest(
            file, "sha256"
        )  # of what is there; leaves the position behind it
        have = file.tell()
        most = MAX_BYTES if expected is None else expected
        for piece in _shown(body.pieces, url, have, expected) if bar else body.pieces:
            have += len(piece)
            if have > most:
                raise _StaleError(
                    f"{url} does not end after {most} bytes: it is not the file that was promised"
                )
            file.write(piece)
            digest.update(piece)
        if have < (expected or 1):
            raise _CutError(
                f"{url} ended after {have} of {expected or 'all its'} bytes; try again to get the rest"
            )
        file.seek(0)
        if (
            file.read(512)
            .lstrip(b"\xef\xbb\xbf \t\r\n")
            .lower()
            .startswith((b"<!doctype", b"<html"))
        ):
            raise _StaleError(f"{url} {_WEB_PAGE}")
        if not digest.hexdigest().startswith(sha256):
            raise _StaleError(
                f"{url} has the SHA-256 {digest.hexdigest()}, expected {sha256}: damaged, or another"
            )
        os.fsync(file.fileno())


def _begun(part: Path, url: str, sha256: str) -> tuple[int, str]:
    """How many bytes of which version an earlier attempt left; none where nothing could
    tell that the rest fits.
    """
    with contextlib.suppress(OSError, ValueError):
        origin, version = part.with_suffix(".version").read_text("utf-8").split("\n")
        if origin == url and (version or sha256):
            return part.stat().st_size, version
    return 0, ""


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".version").unlink(missing_ok=True)


def _whole(url: str, limit: int, until: float = float("inf")) -> bytes:
    data = bytearray()
    with _open(url) as body:
        while max(len(data), body.total or 0) <= limit and (
            piece := next(body.pieces, b"")
        ):
            data += piece
            if time.monotonic() > until:  # nobody waits for it any more
                raise TimeoutError
    if max(len(data), body.total or 0) > limit:
        raise UserError(
            f"{url} has more than {limit} bytes: it is not what was expected, or must be a file first"
        )
    if len(data) < (body.total or 0):
        raise _CutError(
            f"{url} ended after {len(data)} of {body.total} bytes; try again"
        )
    return bytes(data)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Stay on the web, and close what urllib would read to its end: the body of a
    redirect can be endless.
    """

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        fp.close()
        return super().redirect_request(
            req, fp, code, msg, headers, _web_address(newurl)
        )


@contextlib.contextmanager
def _open(url: str, start: int = 0, stop: int | None = None) -> Iterator[_Body]:
    """A file from `start` on (or from 0, where the server knows no parts), at least up
    to `stop`.
    """
    if on := offline():
        raise UserError(
            f"cannot download {url}: the network is switched off; save it as a file first, or unset {on}"
        )
    if not url.lower().startswith(("http:", "https:")):
        yield _Body(start, _from_store(url, start, stop))
        return
    headers = {"User-Agent": f"mlp-mixer/{__version__}"}
    if start or stop:
        headers["Range"] = f"bytes={start}-{stop - 1 if stop else ''}"
    try:
        request = urllib.request.Request(_web_address(url), headers=headers)
        response: HTTPResponse = urllib.request.build_opener(_Redirects).open(
            request, timeout=READ_SECONDS
        )
    except urllib.error.HTTPError as error:
        error.close()
        passing = (
            _CutError if error.code in (408, 429) or error.code >= 500 else UserError
        )
        kind = _StaleError if error.code == 416 else passing
        raise kind(
            f"{url} answered {' '.join(str(error).split())}; check the address, or try later"
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        kind = UserError if isinstance(error, (ValueError, InvalidURL)) else _CutError
        raise kind(
            f"cannot read {url}: {_reason(error)}; check the address and the connection"
        ) from error
    with response:
        encoding = response.headers.get("Content-Encoding", "")
        told = response.headers.get("Content-Range", "")
        if encoding.lower() not in ("", "identity"):
            raise UserError(
                f"{url} came encoded as {encoding!r}, expected the plain bytes: download it in a browser"
            )
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", told)
        if response.status == 206 and part and int(part[1]) == start:
            total: int | None = int(part[2])
        elif response.status == 200:
            start = 0
            total = response.length
        else:
            raise _StaleError(
                f"{url} gives another part than the one asked for; try again later"
            )
        tag = response.headers.get(
            "ETag", ""
        )  # a weak one means equal meaning, not equal bytes
        version = (
            tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
        )
        page = "html" in response.headers.get_content_type()
        yield _Body(start, _from_web(url, response), total, version, page)


def _from_web(url: str, response: HTTPResponse) -> Iterator[bytes]:
    """The body as it comes: `read1` waits for no more, so a cut loses nothing."""
    try:
        while piece := response.read1(_PIECE):
            yield piece
    except (OSError, HTTPException) as error:
        raise _CutError(
            f"{url} was cut: {_reason(error)}; check the connection and try again"
        ) from error


def _from_store(url: str, start: int, stop: int | None) -> Iterator[bytes]:
    try:
        fsspec: Any = importlib.import_module("fsspec")  # which has no types
        store, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"cannot open {url}: {error}; try `pip install 'mlp-mixer[cloud]'`"
        ) from error
    while stop is None or start < stop:
        end = min(start + 16 * _PIECE, stop or sys.maxsize)
        try:
            piece = store.cat_file(path, start=start, end=end)
        except FileNotFoundError as error:
            raise UserError(f"there is no {url}: check the address") from error
        except Exception as error:  # each store has errors of its own
            reason = f"{type(error).__name__}: {_reason(error)}"
            raise _CutError(
                f"cannot read {url}: {reason}; check the address and the connection"
            ) from error
        yield piece
        start += len(piece)
        if start < end:
            return


def _shown(
    pieces: Iterator[bytes], url: str, have: int, total: int | None
) -> Iterator[bytes]:
    """The same pieces; meanwhile a bar on stderr, if a person looks at it."""
    if not (
        sys.stderr and sys.stderr.isatty()
    ):  # there is none at all where a service closed it
        yield from pieces
        return
    bars: Any = importlib.import_module(
        "huggingface_hub.utils"
    )  # which has no types for them
    name = urllib.parse.urlsplit(url).path.rpartition("/")[2]
    with bars.tqdm(
        desc=name, initial=have, total=total, unit="B", unit_scale=True
    ) as bar:
        for piece in pieces:
            bar.update(len(piece))
            yield piece


def _reason(error: object) -> str:
    """What an exception says, in one line."""
    return (
        " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
    )
