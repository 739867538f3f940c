"""Open a file of the web or of an object store as a stream of bytes.

http and https go through urllib; s3, gs and others go through fsspec. `web.py` decides
what to do with the bytes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import string
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from typing import IO, Any, NamedTuple

from ._version import __version__
from .errors import UserError

READ_SECONDS = 30.0  # a server that is silent for so long has cut the connection
PIECE = 2**20  # bytes of one read at most

# An object store charges for each request, so one asks for many pieces at once.
_STORE_PIECES = 16


class CutError(UserError):
    """The connection ended early; another attempt may continue with what has come."""


class StaleError(UserError):
    """The bytes do not belong to the file that was begun; nothing of it can be kept."""


class Body(NamedTuple):
    """A file as it arrives.

    Attributes:
        start: The position of the first byte in the file.
        pieces: The bytes from there on.
        total: The length of the whole file, if the server tells it.
        version: A strong ETag or Last-Modified, if the server tells one.
        page: The server says that this is a web page.
    """

    start: int
    pieces: Iterator[bytes]
    total: int | None = None
    version: str = ""
    page: bool = False


def offline() -> str:
    """Return which environment variables forbid the network, "" if none does.

    They are `MLP_MIXER_OFFLINE` and `HF_HUB_OFFLINE`, set to 1, true, yes or on.
    """
    names = ("MLP_MIXER_OFFLINE", "HF_HUB_OFFLINE")
    yes = {"1", "true", "yes", "on"}
    return " and ".join(
        name for name in names if os.environ.get(name, "").lower() in yes
    )


def web_address(url: str) -> str:
    """Return a URL with blanks and letters beyond ASCII encoded.

    Raises:
        UserError: It is no http or https address; `file:` would read any local file.
    """
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return urllib.parse.quote(url.strip(), safe=string.punctuation)
    raise UserError(
        f"cannot download {url!r}: expected an address that begins with http:// or "
        "https://"
    )


@contextlib.contextmanager
def open_remote(url: str, start: int = 0, stop: int | None = None) -> Iterator[Body]:
    """Open a file from a position on.

    Args:
        url: Of the web or of an object store.
        start: The first byte that is wanted. A server that knows no parts starts at 0,
            which `Body.start` says.
        stop: The end of what is wanted; more may come.

    Raises:
        UserError: Offline mode, a wrong address, or the server refuses.
        CutError: Another attempt may succeed.
        StaleError: The server has another file than the one that was begun.
    """
    if variable := offline():
        raise UserError(
            f"cannot download {url}: the network is switched off; save it as a file "
            f"first, or unset {variable}"
        )
    if not url.lower().startswith(("http:", "https:")):
        yield Body(start, _from_store(url, start, stop))
        return
    with _request(url, start, stop) as response:
        yield _read_headers(url, response, start)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects on the web only, and do not read the body of a redirect.

    urllib reads it to its end, and it can be endless.
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
        address = web_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, address)


def _request(url: str, start: int, stop: int | None) -> HTTPResponse:
    """Send the request and return the answer, or raise what its failure means."""
    headers = {"User-Agent": f"mlp-mixer/{__version__}"}
    if start or stop:
        headers["Range"] = f"bytes={start}-{stop - 1 if stop else ''}"
    opener = urllib.request.build_opener(_Redirects)
    try:
        request = urllib.request.Request(web_address(url), headers=headers)
        response: HTTPResponse = opener.open(request, timeout=READ_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        status = " ".join(str(error).split())
        raise _error_of_status(error.code)(
            f"{url} answered {status}; check the address, or try later"
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        # A wrong address stays wrong; everything else may pass.
        permanent = isinstance(error, (ValueError, InvalidURL))
        kind = UserError if permanent else CutError
        raise kind(
            f"cannot read {url}: {reason(error)}; check the address and the connection"
        ) from error
    return response


def _error_of_status(code: int) -> type[UserError]:
    """Return the error class for an HTTP status of failure."""
    if code == 416:  # the range lies beyond the end: the file has become shorter
        return StaleError
    if code in (408, 429) or code >= 500:  # time-out, too many requests, server error
        return CutError
    return UserError


def _read_headers(url: str, response: HTTPResponse, start: int) -> Body:
    encoding = response.headers.get("Content-Encoding", "")
    if encoding.lower() not in ("", "identity"):
        raise UserError(
            f"{url} came encoded as {encoding!r}, expected the plain bytes: download it "
            "in a browser"
        )
    told = response.headers.get("Content-Range", "")
    part = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", told)
    if response.status == 206 and part and int(part[1]) == start:
        total: int | None = int(part[2])
    elif response.status == 200:
        start = 0
        total = response.length
    else:
        raise StaleError(
            f"{url} gives another part than the one asked for; try again later"
        )
    # A weak tag (W/"...") means equal meaning, not equal bytes, so it proves nothing.
    tag = response.headers.get("ETag", "")
    if not tag.startswith('"'):
        tag = response.headers.get("Last-Modified", "")
    page = "html" in response.headers.get_content_type()
    return Body(start, _from_web(url, response), total, tag, page)


def _from_web(url: str, response: HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it arrives."""
    try:
        # read1 does not wait for a full piece, so a cut loses nothing that has come.
        while piece := response.read1(PIECE):
            yield piece
    except (OSError, HTTPException) as error:
        raise CutError(
            f"{url} was cut: {reason(error)}; check the connection and try again"
        ) from error


def _from_store(url: str, start: int, stop: int | None) -> Iterator[bytes]:
    """Yield the bytes of a file in an object store."""
    try:
        fsspec: Any = importlib.import_module("fsspec")  # it has no types
        store, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"cannot open {url}: {error}; try `pip install fsspec s3fs gcsfs`"
        ) from error
    while stop is None or start < stop:
        end = min(start + _STORE_PIECES * PIECE, stop or sys.maxsize)
        try:
            piece = store.cat_file(path, start=start, end=end)
        except FileNotFoundError as error:
            raise UserError(f"there is no {url}: check the address") from error
        except Exception as error:  # each store has errors of its own
            raise CutError(
                f"cannot read {url}: {type(error).__name__}: {reason(error)}; check the "
                "address and the connection"
            ) from error
        yield piece
        start += len(piece)
        if start < end:  # the end of the file
            return


def reason(error: object) -> str:
    """Return what an exception says, on one line."""
    text = str(getattr(error, "reason", error))
    return " ".join(text.split()) or type(error).__name__
