"""Files from the web, whole or not at all: resumed after a cut, checked by length and hash, one process at a time.

What has come so far lies in `.NAME.part` beside the target; `.NAME.version` remembers the ETag or Last-Modified it
came with, and `If-Range` asks for the rest of that version only, so two versions never mix. The target appears by a
rename after every check: a file that is there is right, and the network is not asked again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import queue
import re
import string
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from io import BufferedRandom
from pathlib import Path
from typing import IO

from filelock import FileLock

from .._version import __version__
from ..errors import UserError
from ..files import PathLike, make_folder, write_text

WAITS = (0.0, 0.5, 1.0, 2.0, 4.0)  # seconds before each attempt of `download`; then what came is kept for the next call
READ_SECONDS = 30.0  # a server that is silent for so long has cut the connection
MAX_BYTES = 16 * 2**30  # where nobody tells the length: an endless answer must stop before the disk is full
_PIECE = 2**18  # bytes, at most, of one reading
_WEB_PAGE = "gave a web page, not a file: log in to the network, or download it in a browser"


class _CutError(UserError):
    """Another attempt may mend it and continues with what has come."""


class _StaleError(_CutError):
    """Another attempt may mend it, but what has come is of no use to it."""


class _WrongError(UserError):
    """This is not the file that was asked for: nothing of it stays."""


def offline() -> bool:
    """Whether `MLP_MIXER_OFFLINE` or `HF_HUB_OFFLINE` is 1, true, yes or on: then nothing here uses the network."""
    return bool(_switches())


def download(
    url: str, folder: PathLike, *, name: str | None = None, size: int | None = None, sha256: str | None = None
) -> Path:
    """Bring a file into `folder` unless it is there; the next call continues what was cut or killed.

    Args:
        url: http or https; no other kind is followed, not even from there.
        folder: created if needed.
        name: of the file, by default the URL's last part; folders are dropped, unusual characters become `_`.
        size: exact length in bytes, also of a file that is there already.
        sha256: hexadecimal digest, or its first 8 or more digits as in the file names of timm and OpenMMLab. Without
            it and without `size`, a server that promises too little and keeps to it is believed.

    Raises:
        UserError: offline mode; the server refuses, or fails at each of the `WAITS`; what came is a web page, or has
            another length or hash; the disk refuses.
    """
    address = _web_address(url)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{8,64}", sha256):
        raise UserError(f"cannot check {url} by the SHA-256 {sha256!r}: expected 8 to 64 hexadecimal digits")
    target = Path(folder) / _file_name(urllib.parse.unquote(urllib.parse.urlsplit(url).path) if name is None else name)
    with _disk_errors(target):
        if _is_there(target, size):
            return target
        _refuse_offline(url, f"put the file at {str(target.absolute())!r}")
        make_folder(target.parent)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not _is_there(target, size):  # another process may have brought it while this one waited
                _bring(address, target, size, (sha256 or "").lower())
    return target


def fetch_bytes(url: str, *, limit: int = 64 * 2**20, seconds: float = 30) -> bytes:
    """What lies at an http(s) address, such as a picture: at most `limit` bytes, in at most `seconds`, or `UserError`.

    A thread does it, for neither the search for the host's address nor headers that come drop by drop heed a timeout.
    """
    _refuse_offline(url, "save it as a file first")
    answer: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    threading.Thread(target=_fetch, args=(_web_address(url), limit, seconds, answer), daemon=True).start()
    try:
        got = answer.get(timeout=seconds)
    except queue.Empty:
        raise UserError(f"{url} took longer than {seconds:g} seconds; save it as a file first") from None
    if isinstance(got, Exception):
        raise got
    return got


def hub_file(repo_id: str, filename: str, *, revision: str | None = None) -> Path:
    """A file of a Hugging Face model repository, by way of that library's own cache.

    Args:
        repo_id: `owner/name`.
        filename: its path in the repository.
        revision: branch, tag or commit; by default the main branch.

    Raises:
        UserError: no such repository, revision or file, or a private one; no network; offline and not in the cache.
    """
    import huggingface_hub

    with hub_errors(f"download {filename!r} of {repo_id!r}" + (f" at {revision!r}" if revision else "")):
        return Path(huggingface_hub.hf_hub_download(repo_id, filename, revision=revision, local_files_only=offline()))
    raise AssertionError("hub_errors lets no exception pass")


@contextlib.contextmanager
def hub_errors(doing: str) -> Iterator[None]:
    """Whatever the hub's library raises becomes a `UserError`: "cannot", `doing`, why not, and what to do about it."""
    from huggingface_hub import constants, errors

    try:
        yield
    except UserError:
        raise
    except Exception as error:  # they share no base class, and come from one HTTP library or the next
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        said = " ".join(str(getattr(error, "server_message", None) or cause).split())[:200] or type(cause).__name__
        why = f"{said}; check the connection and the names, and try again"
        if offline():
            switches = " and ".join(_switches())
            why = f"the network is switched off; bring it into {str(constants.HF_HUB_CACHE)!r}, or unset {switches}"
        elif isinstance(error, errors.HFValidationError):
            why = "that is no folder here and no name of a repository; expected one such as 'owner/name'"
        elif isinstance(error, errors.RevisionNotFoundError):
            why = "no such revision; give one of its branches, tags or commits"
        elif isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            why = "no such file there; check its name"
        elif isinstance(error, errors.RepositoryNotFoundError):
            why = "no such repository, or a closed one; check the name, or log in with `hf auth login`"
        elif isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
            why = f"no permission ({said}); log in with `hf auth login`, with a token that has it"
        raise UserError(f"cannot {doing}: {why}") from error


def _switches() -> list[str]:
    on = {"1", "true", "yes", "on"}
    return [name for name in ("MLP_MIXER_OFFLINE", "HF_HUB_OFFLINE") if os.environ.get(name, "").lower() in on]


def _refuse_offline(wanted: str, advice: str) -> None:
    if on := " and ".join(_switches()):
        raise UserError(f"cannot download {wanted}: the network is switched off; {advice}, or unset {on}")


def _web_address(url: str) -> str:
    """The URL with blanks and letters beyond ASCII encoded; `file:` and its like are refused."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return urllib.parse.quote(url.strip(), safe=string.punctuation)
    raise UserError(f"cannot download {url!r}: expected an address that begins with http:// or https://")


def _file_name(wanted: str) -> str:
    """A visible name without folders, short enough for the names of its companions."""
    name = re.sub(r"[^\w.+-]", "_", re.split(r"[/\\]", wanted)[-1], flags=re.ASCII).lstrip(".")[-200:]
    if not name:
        raise UserError(f"cannot name a file {wanted!r}: expected a name such as 'model.safetensors'")
    return name


def _is_there(target: Path, size: int | None) -> bool:
    found = target.stat().st_size if target.is_file() else None
    if found is not None and size not in (None, found):
        raise UserError(f"{str(target)!r} has {found} bytes, expected {size}: delete it and try again")
    return found is not None


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Every `OSError` that comes this far is the disk's: `_open` and `_pieces` have caught those of the network."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space" if full else "choose another place"
        raise UserError(f"cannot write {str(target)!r}: {error.strerror or error}; {advice} and try again") from error


def _bring(url: str, target: Path, size: int | None, sha256: str) -> None:
    part = target.with_name(f".{target.name}.part")
    failure: _CutError | None = None
    for wait in WAITS:
        time.sleep(wait)
        try:
            _attempt(url, part, size, sha256)
            part.replace(target)  # its folder is not synced: a power cut could cost the download, nothing else
            return _forget(part)
        except _CutError as error:
            failure = error
            if isinstance(error, _StaleError):
                _forget(part)
        except _WrongError:
            _forget(part)
            raise
    assert failure, "WAITS allows at least one attempt"
    raise failure


def _attempt(url: str, part: Path, size: int | None, sha256: str) -> None:
    """Ask for what is missing, append it, and judge the whole."""
    start, version = _begun(part, url)
    with _open(url, READ_SECONDS, {"Range": f"bytes={start}-", "If-Range": version} if start else {}) as response:
        if "html" in response.headers.get_content_type():  # a captive portal, maybe: keep what the real server sent
            raise UserError(f"{url} {_WEB_PAGE}")
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if response.status == 200:
            start, total = 0, response.length
        elif told and int(told[1]) == start and _version(response) == version:
            total = int(told[2])
        else:
            raise _StaleError(f"{url} gives another part than the one asked for; try again later")
        expected = total if size is None else size
        if total not in (None, expected):
            raise _WrongError(f"{url} has {total} bytes, expected {size}: it has changed, or it is another file")
        with part.open("r+b" if start else "w+b") as file:
            if not start:  # only now that the bytes of another version are gone
                write_text(_note(part), f"{url}\n{_version(response)}")
            _append(response, url, file, expected, sha256)


def _append(response: HTTPResponse, url: str, file: BufferedRandom, expected: int | None, sha256: str) -> None:
    digest = hashlib.file_digest(file, "sha256")  # of what is there; leaves the position behind it
    have, most = file.tell(), MAX_BYTES if expected is None else expected
    with _progress(url, have, expected) as advance:
        for piece in _pieces(response, url):
            have += len(piece)
            if have > most:
                raise _WrongError(f"{url} does not end after {most} bytes: it is not the file that was promised")
            file.write(piece)
            digest.update(piece)
            advance(len(piece))
    if have < (expected or 1):
        raise _CutError(f"{url} ended after {have} of {expected or 'all its'} bytes; try again to get the rest")
    file.seek(0)
    if file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html")):
        raise _WrongError(f"{url} {_WEB_PAGE}")
    if not digest.hexdigest().startswith(sha256):
        raise _WrongError(f"{url} has the SHA-256 {digest.hexdigest()}, expected {sha256}: damaged, or another file")
    os.fsync(file.fileno())


def _begun(part: Path, url: str) -> tuple[int, str]:
    """How many bytes of which version an earlier attempt left; none where the server named no version."""
    with contextlib.suppress(OSError, ValueError):
        origin, version = _note(part).read_text("utf-8").splitlines()
        if origin == url and version:
            return part.stat().st_size, version
    return 0, ""


def _version(response: HTTPResponse) -> str:
    """What `If-Range` accepts: an ETag unless it is weak (of equal meaning, not of equal bytes), else the date."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _note(part: Path) -> Path:
    return part.with_suffix(".version")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Stay on the web, and close what urllib would read to its end: the body of a redirect can be endless."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        fp.close()
        return super().redirect_request(req, fp, code, msg, headers, _web_address(newurl))


@contextlib.contextmanager
def _open(url: str, seconds: float, headers: dict[str, str]) -> Iterator[HTTPResponse]:
    """The answer to GET, after redirects; `_CutError` where asking again may help, else `UserError`."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"mlp-mixer/{__version__}"} | headers)
        response: HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=seconds)
    except urllib.error.HTTPError as error:
        error.close()
        passing = _CutError if error.code in (408, 429) or error.code >= 500 else UserError
        kind = _StaleError if error.code == 416 else passing
        raise kind(f"{url} answered {' '.join(str(error).split())}; check the address, or try later") from error
    except (ValueError, InvalidURL) as error:
        raise UserError(f"cannot read {url}: {_reason(error)}; check the address") from error
    except (OSError, HTTPException) as error:
        raise _CutError(f"cannot read {url}: {_reason(error)}; check the connection and try again") from error
    with response:
        encoding = response.headers.get("Content-Encoding", "")
        if encoding.lower() not in ("", "identity"):
            raise UserError(f"{url} came encoded as {encoding!r}, expected the plain bytes: download it in a browser")
        yield response


def _pieces(response: HTTPResponse, url: str) -> Iterator[bytes]:
    """The body as it comes: `read1` waits for no more, so a cut loses nothing."""
    try:
        while piece := response.read1(_PIECE):
            yield piece
    except (OSError, HTTPException) as error:
        raise _CutError(f"{url} was cut: {_reason(error)}; check the connection and try again") from error


@contextlib.contextmanager
def _progress(url: str, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """What it yields is told of new bytes and moves a bar on stderr, if a person looks at it."""
    if not (sys.stderr and sys.stderr.isatty()):  # there is none at all where a service closed it
        yield lambda count: None
        return
    from rich import progress
    from rich.console import Console

    name = progress.TextColumn("{task.description}", markup=False)
    amount = (progress.BarColumn(), progress.DownloadColumn(), progress.TransferSpeedColumn())
    with progress.Progress(name, *amount, progress.TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(urllib.parse.urlsplit(url).path.rpartition("/")[2], total=total, completed=have)
        yield lambda count: bar.advance(task, count)


def _fetch(url: str, limit: int, seconds: float, answer: queue.SimpleQueue[bytes | Exception]) -> None:
    stop = time.monotonic() + seconds
    large = UserError(f"{url} has more than {limit} bytes; save it as a file first")
    try:
        with _open(url, seconds, {}) as response:
            body, promised = bytearray(), response.length or 0
            if promised > limit:
                raise large
            for piece in _pieces(response, url):
                body += piece
                if len(body) > limit:
                    raise large
                if time.monotonic() > stop:
                    return  # nobody waits for it any more
        if len(body) < promised:
            raise _CutError(f"{url} ended after {len(body)} of {promised} bytes; try again")
        answer.put(bytes(body))
    except Exception as error:
        answer.put(error)


def _reason(error: object) -> str:
    """What an exception says, in one line."""
    return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
