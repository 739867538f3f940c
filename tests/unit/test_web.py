"""Every way in which fetching goes wrong, played by a web server of our own; the
shards' tests add object stores.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from mlp_mixer import remote
from mlp_mixer import web as module
from mlp_mixer.errors import UserError, without_secrets
from mlp_mixer.web import (
    fetch,
    fetch_bytes,
    fetch_part,
    fetch_small,
    file_name,
    offline,
)
from mlp_mixer.weights.huggingface.folder import hub_file

BODY = bytes(range(256)) * 1000
NEW = BODY[::-1] + b"new"
SHA = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
PAGE = b"\n <!DOCTYPE HTML><title>quota exceeded</title>"


class Site(http.server.ThreadingHTTPServer):
    """A server that answers each request as the next entry of `script` says, and in the
    end honestly.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.etag = '"one"'
        self.script: list[Callable[[Handler], None]] = []
        self.ranges: list[str | None] = []  # of each request
        self.headers: list[dict[str, str]] = []
        self.go_on = threading.Event()  # what a hanging answer waits for

    def __str__(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"{self}/folder/file.bin?download=true"

    def handle_error(self, *_: object) -> None:
        """A client that went away is what many a test is about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site = self.server
        site.ranges.append(self.headers.get("Range"))
        site.headers.append(dict(self.headers))
        (site.script.pop(0) if site.script else honest)(self)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass

    def answer(
        self, status: int, body: bytes, length: int | None = -1, **headers: str
    ) -> None:
        """Send a status, `Content-Length` (-1: the true one; None: none), headers and
        body.
        """
        self.send_response(status)
        if length is not None:
            self.send_header(
                "Content-Length", str(len(body) if length == -1 else length)
            )
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def honest(h: Handler, most: int | None = None, **headers: str) -> None:
    """As RFC 9110 says: the part that was asked for; `most` bytes of it, and then a
    cut.
    """
    body = h.server.body
    etag = h.server.etag
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", h.headers.get("Range", ""))
    headers |= {"ETag": etag} if etag else {}
    if asked and int(asked[1]) >= len(body):
        h.answer(416, b"", Content_Range=f"bytes */{len(body)}")
    elif asked:
        start = int(asked[1])
        last = min(int(asked[2] or len(body)), len(body) - 1)
        rest = body[start : last + 1]
        told = f"bytes {start}-{last}/{len(body)}"
        h.answer(206, rest[:most], len(rest), Content_Range=told, **headers)
    else:
        h.answer(200, body[:most], len(body), **headers)


def cut(most: int = HALF, **headers: str) -> Callable[[Handler], None]:
    return functools.partial(honest, most=most, **headers)


def says(
    status: int, body: bytes = b"", length: int | None = -1, **headers: str
) -> Callable[[Handler], None]:
    return lambda h: h.answer(status, body, length, **headers)


def hang(h: Handler) -> None:
    h.server.go_on.wait(5)


def begin_then_hang(h: Handler) -> None:
    honest(h, most=100_000)
    h.server.go_on.wait(5)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("MLP_MIXER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "WAITS", (0,) * 5)
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.005,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    """What is in the folder, but for the lock."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def download(url: str, folder: Path, **options: Any) -> Path:
    return fetch(url, folder / file_name(url), **options)


def refused(site: Site, folder: Path, match: str, **options: Any) -> None:
    with pytest.raises(UserError, match=match) as caught:
        download(site.url, folder, **options)
    assert type(caught.value) is UserError
    assert "\n" not in str(caught.value)


# --- the file comes


def test_a_file_comes_whole_and_once(site, tmp_path):
    for _ in range(2):
        path = download(
            site.url, tmp_path / "new" / "folder", size=len(BODY), sha256=SHA
        )
        assert path == tmp_path / "new" / "folder" / "file.bin"
        assert path.read_bytes() == BODY
    assert site.ranges == [f"bytes=0-{len(BODY) - 1}"]
    assert site.headers[0]["User-Agent"].startswith("mlp-mixer/")
    assert names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("digits", [SHA[:8], SHA[:9].upper(), SHA])
def test_the_beginning_of_the_hash_is_enough(site, tmp_path, digits):
    assert download(site.url, tmp_path, sha256=digits).read_bytes() == BODY


@pytest.mark.parametrize(
    "known", [{}, {"sha256": SHA}, {"sha256": SHA, "size": len(BODY)}]
)
def test_cuts_are_mended_with_the_rest_alone(site, tmp_path, known):
    """Where the server tells no version, the hash says whether the parts belong
    together.
    """
    site.etag = "" if known else '"one"'
    site.script = [cut(1000), cut(1000), cut(0), cut(5)]
    assert download(site.url, tmp_path, **known).read_bytes() == BODY
    last = known.get("size", "") and len(BODY) - 1
    assert site.ranges[1:] == [
        f"bytes={start}-{last}" for start in (1000, 2000, 2000, 2005)
    ]
    assert names(tmp_path) == ["file.bin"]


def test_the_next_call_goes_on_where_the_last_gave_up(site, tmp_path):
    site.script = [cut(10)] * 5
    refused(site, tmp_path, "ended after 50 of 256000 bytes")
    assert names(tmp_path) == [".file.bin.part", ".file.bin.version"]
    assert download(site.url, tmp_path, sha256=SHA).read_bytes() == BODY
    assert site.ranges[5:] == ["bytes=50-"]


def test_a_date_serves_where_there_is_no_strong_etag(site, tmp_path):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    site.etag = ""
    site.script = [
        cut(ETag='W/"weak"', Last_Modified=date),
        functools.partial(honest, Last_Modified=date),
    ]
    assert download(site.url, tmp_path).read_bytes() == BODY
    assert site.ranges == [None, f"bytes={HALF}-"]


def test_without_a_version_and_a_hash_nothing_is_continued(site, tmp_path):
    site.etag = ""
    site.script = [cut()]
    assert download(site.url, tmp_path).read_bytes() == BODY
    assert site.ranges == [None, None]


def test_another_address_is_not_continued(site, tmp_path):
    site.script = [cut(10)] * 5
    refused(site, tmp_path, "ended after")
    assert download(f"{site}/mirror/file.bin", tmp_path).read_bytes() == BODY
    assert site.ranges[5:] == [None]


def test_a_server_that_ignores_ranges(site, tmp_path):
    site.script = [cut(), says(200, BODY, ETag='"one"')]
    assert download(site.url, tmp_path).read_bytes() == BODY
    assert site.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize(
    "body",
    [NEW, NEW[: len(BODY)], NEW[:HALF], NEW[:10]],
    ids=["longer", "same", "half", "short"],
)
def test_two_versions_never_mix(site, tmp_path, body):
    def changed(h: Handler) -> None:
        site.body, site.etag = body, '"two"'
        honest(h)

    site.script = [cut(), changed]
    assert download(site.url, tmp_path).read_bytes() == body
    assert site.ranges == [None, f"bytes={HALF}-", None]


def test_the_rest_of_another_version_is_known_by_its_hash(site, tmp_path):
    site.etag, site.script = "", [says(200, b"x" * 1000, len(BODY))]
    assert download(site.url, tmp_path, sha256=SHA, size=len(BODY)).read_bytes() == BODY
    assert [asked.split("-")[0] for asked in site.ranges] == [
        "bytes=0",
        "bytes=1000",
        "bytes=0",
    ]


@pytest.mark.parametrize("more", [0, 1])
def test_a_part_that_is_too_long_does_not_stay(site, tmp_path, more):
    (tmp_path / ".file.bin.part").write_bytes(bytes(len(BODY) + more))
    (tmp_path / ".file.bin.version").write_text(f'{site.url}\n"one"')
    assert download(site.url, tmp_path, sha256=SHA).read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]


def test_another_version_is_known_by_its_tag(site, tmp_path):
    rest = NEW[HALF : len(BODY)]
    told = f"bytes {HALF}-{len(BODY) - 1}/{len(BODY)}"
    site.body, site.etag = NEW[: len(BODY)], '"two"'
    for etag in ({"ETag": '"two"'}, {}):
        (tmp_path / "file.bin").unlink(missing_ok=True)
        first = says(200, BODY[:HALF], len(BODY), ETag='"one"')
        site.script = [first, says(206, rest, Content_Range=told, **etag)]
        assert download(site.url, tmp_path).read_bytes() == site.body


@pytest.mark.parametrize(
    "told",
    [
        f"bytes 0-{len(BODY) - 1}/{len(BODY)}",
        f"bytes {HALF}-{len(BODY) - 1}/*",
        "bytes",
        "",
        "octets 1-2/3",
    ],
)
def test_a_wrong_part_starts_anew(site, tmp_path, told):
    site.script = [cut(), says(206, BODY[HALF:], Content_Range=told, ETag='"one"')]
    assert download(site.url, tmp_path).read_bytes() == BODY
    assert site.ranges == [None, f"bytes={HALF}-", None]


def test_a_part_beyond_the_end_starts_anew(site, tmp_path):
    site.script = [cut(), says(416, Content_Range=f"bytes */{len(BODY)}")]
    assert download(site.url, tmp_path).read_bytes() == BODY
    assert site.ranges == [None, f"bytes={HALF}-", None]


def test_a_part_in_pieces(site, tmp_path):
    """Some servers give at most so many bytes at once."""
    piece = says(
        206,
        BODY[HALF : HALF + 9],
        Content_Range=f"bytes {HALF}-{HALF + 8}/{len(BODY)}",
        ETag='"one"',
    )
    site.script = [cut(), piece]
    assert download(site.url, tmp_path, sha256=SHA).read_bytes() == BODY
    assert site.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 9}-"]


def test_no_length(site, tmp_path):
    site.script = [says(200, BODY, None)]
    assert download(site.url, tmp_path).read_bytes() == BODY


def test_no_length_but_a_known_size(site, tmp_path):
    site.script = [says(200, BODY[:HALF], None, ETag='"one"')]
    assert download(site.url, tmp_path, size=len(BODY)).read_bytes() == BODY
    assert [asked.split("-")[0] for asked in site.ranges] == [
        "bytes=0",
        f"bytes={HALF}",
    ]


def test_chunks_and_a_cut_between_them(site, tmp_path):
    chunk = b"%x\r\n%s\r\n" % (HALF, BODY[:HALF])
    site.script = [says(200, chunk, None, Transfer_Encoding="chunked", ETag='"one"')]
    assert download(site.url, tmp_path, sha256=SHA).read_bytes() == BODY
    assert site.ranges == [None, f"bytes={HALF}-"]


def test_a_busy_server_is_asked_again(site, tmp_path):
    site.script = [says(500), says(503), says(429), says(408)]
    assert download(site.url, tmp_path).read_bytes() == BODY


def test_a_redirect_keeps_the_range(site, tmp_path):
    there = says(302, Location="/elsewhere")
    site.script = [there, cut(), there]
    path = download(site.url, tmp_path, sha256=SHA)
    assert (path.name, path.read_bytes()) == ("file.bin", BODY)
    assert site.ranges == [None, None, f"bytes={HALF}-", f"bytes={HALF}-"]


# --- it is refused


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(site, tmp_path, status):
    site.script = [says(status, b"<html>")]
    refused(
        site,
        tmp_path,
        f"{re.escape(without_secrets(site.url))} answered HTTP Error {status}: .+; check the address",
    )
    assert len(site.ranges) == 1
    assert names(tmp_path) == []


def test_a_broken_server_is_given_up(site, tmp_path):
    site.script = [says(500)] * 9
    refused(site, tmp_path, "answered HTTP Error 500")
    assert len(site.ranges) == 5


@pytest.mark.parametrize("status", [202, 204, 206])
def test_a_strange_success_is_none(site, tmp_path, status):
    site.script = [says(status)]
    refused(site, tmp_path, "another part than the one asked for")
    assert names(tmp_path) == []


def test_a_length_that_is_too_large(site, tmp_path):
    site.script = [says(200, BODY, len(BODY) + 1)] * 5
    refused(site, tmp_path, "ended after 256000 of 256001 bytes")


def test_a_length_that_is_too_small(site, tmp_path):
    """HTTP ends there; only one who knows better can tell."""
    site.script = [says(200, BODY, HALF)] * 2
    refused(site, tmp_path, f"has {HALF} bytes, expected {len(BODY)}", size=len(BODY))
    refused(site, tmp_path, f"has the SHA-256 .+, expected {SHA[:8]}", sha256=SHA[:8])
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, len(BODY) - 1, len(BODY) + 1])
def test_another_size(site, tmp_path, size):
    refused(site, tmp_path, f"has {len(BODY)} bytes, expected {size}", size=size)
    assert (len(site.ranges), names(tmp_path)) == (1, [])


def test_more_than_the_size_without_a_length(site, tmp_path):
    site.script = [says(200, BODY, None)]
    refused(site, tmp_path, f"does not end after {HALF} bytes", size=HALF)
    assert (len(site.ranges), names(tmp_path)) == (1, [])


def test_an_endless_answer(site, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", HALF)
    site.script = [says(200, BODY, None)]
    refused(site, tmp_path, f"does not end after {HALF} bytes")
    assert names(tmp_path) == []


def test_nothing_at_all(site, tmp_path):
    site.script = [says(200), says(200, b"", None)] * 3
    refused(site, tmp_path, "ended after 0 of all its bytes")


@pytest.mark.parametrize("cuts", [0, 1])
def test_a_wrong_hash_leaves_nothing(site, tmp_path, cuts):
    site.script = [cut()] * cuts
    refused(
        site,
        tmp_path,
        f"has the SHA-256 {SHA}, expected 0123456789",
        sha256="0123456789",
    )
    assert names(tmp_path) == []
    assert (
        len(site.ranges) == 1 + 2 * cuts
    )  # the second half may have been another version's


def test_a_damaged_part_is_noticed_and_mended(site, tmp_path):
    site.script = [cut(10)] * 5
    refused(site, tmp_path, "ended after")
    part = tmp_path / ".file.bin.part"
    part.write_bytes(b"?" + part.read_bytes()[1:])
    assert download(site.url, tmp_path, sha256=SHA).read_bytes() == BODY
    assert site.ranges[5:] == ["bytes=50-", None]


@pytest.mark.parametrize(
    "page",
    [
        says(200, b"whatever", Content_Type="text/html; charset=utf-8"),
        says(200, PAGE, Content_Type="application/octet-stream"),
        says(200, b"<HtMl lang=en>", None),
        says(200, b"\xef\xbb\xbf<!doctype html>"),
    ],
)
def test_a_web_page_is_no_file(site, tmp_path, page):
    site.script = [page]
    refused(site, tmp_path, "gave a web page, not a file")
    assert (len(site.ranges), names(tmp_path)) == (1, [])


def test_a_captive_portal_costs_nothing_of_what_came(site, tmp_path):
    site.script = [cut(), says(200, PAGE, Content_Type="text/html")]
    refused(site, tmp_path, "gave a web page")
    assert download(site.url, tmp_path, sha256=SHA).read_bytes() == BODY
    assert site.ranges[2:] == [f"bytes={HALF}-"]


@pytest.mark.parametrize(
    "body", [gzip.compress(BODY, mtime=0), BODY], ids=["true", "lie"]
)
def test_encoded_bytes_are_refused(site, tmp_path, body):
    site.script = [says(200, body, Content_Encoding="gzip")]
    refused(site, tmp_path, "came encoded as 'gzip'")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ("file:///etc/passwd", "'file:///etc/passwd' is not allowed"),
        ("ftp://127.0.0.1/x", "cannot download 'ftp:"),
    ],
)
def test_a_redirect_stays_on_the_web(site, tmp_path, where, match):
    site.script = [says(302, Location=where)]
    refused(site, tmp_path, match)
    assert (len(site.ranges), names(tmp_path)) == (1, [])


def test_a_redirect_in_circles(site, tmp_path):
    site.script = [says(302, Location=site.url)] * 99
    refused(site, tmp_path, "infinite loop")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a/b",
        "data:,x",
        "/etc/passwd",
        "",
        "http://",
        "http://[",
    ],
)
def test_only_the_web(site, tmp_path, url):
    for get in (fetch_bytes, file_name):
        with pytest.raises(
            UserError, match="expected an address that begins with http:// or https://"
        ):
            get(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:port/x", "http://" + "a" * 70 + "/x", "http://a..b/x"]
)
def test_an_address_that_cannot_be(site, tmp_path, url):
    with pytest.raises(UserError, match="check the address"):
        download(url, tmp_path)


def test_nobody_listens(site, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(
        UserError,
        match="cannot read .+: .*refused; check the address and the connection",
    ):
        download(f"http://127.0.0.1:{port}/file", tmp_path)


@pytest.mark.parametrize(
    "silent", [hang, begin_then_hang], ids=["from the beginning", "in the middle"]
)
def test_silence_ends(site, tmp_path, monkeypatch, silent):
    monkeypatch.setattr(remote, "READ_SECONDS", 0.05)
    monkeypatch.setattr(module, "WAITS", (0, 0))
    site.script = [silent] * 2
    refused(site, tmp_path, "timed out; check the (address and the )?connection")
    assert site.ranges == [None, None if silent is hang else "bytes=100000-"]


def test_a_server_that_hangs_up(site, tmp_path):
    site.script = [lambda h: None] * 5
    refused(site, tmp_path, "cannot read .+: Remote end closed connection")


# --- the disk


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b%20c+d.npz#here", "b_c+d.npz"),
        ("/a/..%2F..%2Fe é.npz", "e__.npz"),
        ("/a%5Cc.npz?x=/y", "c.npz"),
        ("/.hidden", "hidden"),
        ("/größe%20%3F*:<.pth", "gr__e_____.pth"),
        ("/" + "x" * 300 + "-1a2b3c4d.pth", "x" * 187 + "-1a2b3c4d.pth"),
    ],
)
def test_names_are_plain_and_a_long_one_keeps_its_end(path, name):
    assert file_name(f"http://host{path}") == name


@pytest.mark.parametrize("path", ["", "/", "/a/", "/..", "/b%2F"])
def test_no_name(path):
    with pytest.raises(UserError, match="cannot name the file at 'http://host"):
        file_name(f"http://host{path}")


def test_a_file_that_is_there_needs_no_network(site, tmp_path, monkeypatch):
    monkeypatch.setenv("MLP_MIXER_OFFLINE", "1")
    (tmp_path / "file.bin").write_bytes(b"old")
    assert download(site.url, tmp_path).read_bytes() == b"old"
    assert site.ranges == []


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_is_closed(site, tmp_path):
    tmp_path.chmod(0o500)
    refused(site, tmp_path, "permission denied; choose another place")


def test_a_folder_that_is_a_file(site, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    refused(site, tmp_path / "file", "File exists; choose another place")


def test_a_target_that_is_a_folder(site, tmp_path):
    (tmp_path / "file.bin").mkdir()
    refused(site, tmp_path, "cannot write .*file.bin")


def test_a_full_disk_keeps_what_came(site, tmp_path):
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    command = python(code + downloading(site, tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert "UserError: cannot write" in done.stderr
    assert "File too large; free some space" in done.stderr
    part = (tmp_path / ".file.bin.part").stat().st_size
    assert download(site.url, tmp_path, sha256=SHA).read_bytes() == BODY
    assert site.ranges == [None, f"bytes={part}-"]


def test_the_bytes_are_safe_before_the_name_is_there(site, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os,
        "fsync",
        lambda file: synced.append((os.fstat(file).st_size, names(tmp_path))),
    )
    download(site.url, tmp_path)
    assert synced[-1] == (len(BODY), [".file.bin.part", ".file.bin.version"])


# --- several processes, and dead ones


def python(code: str) -> list[str]:
    start = "import sys; from pathlib import Path; from mlp_mixer.web import fetch\n"
    return [sys.executable, "-c", start + code]


def downloading(site: Site, folder: Path) -> str:
    return f"print(fetch({site.url!r}, Path({str(folder / 'file.bin')!r})))"


def test_the_rest_after_a_kill(site, tmp_path):
    site.script = [begin_then_hang]
    part = tmp_path / ".file.bin.part"
    with subprocess.Popen(
        python(downloading(site, tmp_path)), stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not (part.exists() and part.stat().st_size):
            time.sleep(0.01)
        process.kill()
    came = part.stat().st_size
    assert 0 < came <= 100_000
    assert names(tmp_path) == [".file.bin.part", ".file.bin.version"]
    assert download(site.url, tmp_path, sha256=SHA).read_bytes() == BODY
    assert site.ranges == [None, f"bytes={came}-"]
    assert names(tmp_path) == ["file.bin"]


def test_two_processes_and_two_threads_bring_it_once(site, tmp_path):
    def slowly(h: Handler) -> None:
        site.go_on.wait(5)
        honest(h)

    site.script = [slowly]
    threads = [
        threading.Thread(target=download, args=(site.url, tmp_path)) for _ in range(2)
    ]
    command = python(downloading(site, tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for thread in threads:
            thread.start()
        while not site.ranges:
            time.sleep(0.01)
        time.sleep(0.1)  # so that some of them wait for the lock, on most machines
        site.go_on.set()
        for thread in threads:
            thread.join()
        assert process.communicate(timeout=600)[0].strip() == str(tmp_path / "file.bin")
    assert site.ranges == [None]
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]


# --- a person looks at it


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_for_a_terminal_alone(site, tmp_path, monkeypatch, capsys):
    fetch(site.url, tmp_path / "silent", bar=True)
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(site.url, tmp_path / "not wanted")
    assert terminal.getvalue() == ""
    fetch(f"{site}/[red].pth?token=secret", tmp_path / "seen", bar=True)
    assert "[red].pth" in terminal.getvalue()
    assert "256k/256k" in terminal.getvalue()
    assert "secret" not in terminal.getvalue()
    site.script = [says(200, BODY, None)]
    fetch(site.url, tmp_path / "without a length", bar=True)
    monkeypatch.setattr(sys, "stderr", None)
    fetch(site.url, tmp_path / "without anything", bar=True)
    assert capsys.readouterr().out == ""


# --- no network wanted


@pytest.mark.parametrize("name", ["MLP_MIXER_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "true", "YES", "On"])
def test_offline(site, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert offline()
    place = re.escape(repr(str(tmp_path / "sub" / "file.bin")))
    refused(
        site,
        tmp_path / "sub",
        f"{re.escape(without_secrets(site.url))}: .*put the file at {place}, or unset {name}",
    )
    for get in (
        fetch_bytes,
        lambda url: fetch_small(url, 9),
        lambda url: fetch_part(url, 1, 2),
    ):
        with pytest.raises(
            UserError,
            match=f"the network is switched off; save it as a file first, or unset {name}",
        ):
            get(site.url)
    assert site.ranges == []
    assert names(tmp_path) == []


@pytest.mark.parametrize("value", ["", "0", "no", "false", "off"])
def test_not_offline(site, monkeypatch, value):
    monkeypatch.setenv("MLP_MIXER_OFFLINE", value)
    assert not offline()


# --- one picture


def test_fetch_bytes(site):
    assert fetch_bytes(site.url, limit=len(BODY)) == BODY
    site.script = [
        says(302, Location="/p"),
        says(200, PAGE, Content_Type="text/html"),
        says(200, BODY, None),
    ]
    assert (
        fetch_bytes(f"{site}/größe und maß.png") == PAGE
    )  # the decoder of images will say what it is
    assert fetch_bytes(site.url) == BODY


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (says(200, b"", len(BODY)), f"has more than {HALF} bytes"),
        (says(200, BODY, None), f"has more than {HALF} bytes"),
        (says(200, b"x", 2), "ended after 1 of 2 bytes"),
        (says(200, b"5\r\nab", None, Transfer_Encoding="chunked"), "was cut"),
        (says(200, b"zz\r\nab", None, Transfer_Encoding="chunked"), "was cut"),
        (says(404), "answered HTTP Error 404: Not Found"),
        (says(503), "answered HTTP Error 503: Service Unavailable"),
        (says(302, Location="file:///etc/passwd"), "is not allowed"),
        (says(200, BODY, Content_Encoding="gzip"), "came encoded"),
        (lambda h: None, "Remote end closed"),
    ],
)
def test_fetch_bytes_refuses(site, answer, match):
    site.script = [answer]
    with pytest.raises(UserError, match=match):
        fetch_bytes(site.url, limit=HALF)
    assert len(site.ranges) == 1


def test_a_part_of_a_server_that_knows_none(site):
    site.script = [says(200, BODY)] * 2
    assert fetch_part(site.url, 0, 5) == BODY[:5]
    with pytest.raises(UserError, match="comes only as a whole"):
        fetch_part(site.url, 1, 5)
    assert fetch_part(site.url, 1, 5) == BODY[1:6]


def drip(h: Handler) -> None:
    h.answer(200, b"", None)
    for _ in range(300):
        if not h.server.go_on.wait(0.01):
            h.wfile.write(b".")


def dripping_headers(h: Handler) -> None:
    h.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    for _ in range(300):
        if not h.server.go_on.wait(0.01):
            h.wfile.write(b".")


def endless_redirect(h: Handler) -> None:
    h.answer(302, b"", None, Location="/elsewhere")
    drip(h)


@pytest.mark.parametrize("slow", [hang, begin_then_hang, drip, dripping_headers])
def test_fetch_bytes_has_a_deadline(site, slow):
    site.script = [slow]
    with pytest.raises(UserError, match="took longer than 0.1 seconds|timed out"):
        fetch_bytes(site.url, seconds=0.1)
    if (
        slow is drip
    ):  # the thread notices that nobody waits, while the server would go on for seconds
        for thread in threading.enumerate():
            if thread.name == "fetch_bytes":
                thread.join(1)
                assert not thread.is_alive()


def test_an_endless_body_is_not_read_beyond_the_limit(site):
    site.script = [drip]
    with pytest.raises(UserError, match="has more than 5 bytes"):
        fetch_bytes(site.url, limit=5, seconds=2)


def test_the_body_of_a_redirect_is_not_read(site):
    site.script = [endless_redirect]
    assert fetch_bytes(site.url) == BODY


# --- the hub


@pytest.fixture
def hub(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """`hf_hub_download` as it is, with our server for its hub."""
    real = functools.partial(
        huggingface_hub.hf_hub_download, endpoint=str(site), cache_dir=tmp_path
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", real)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return site


def hub_refuses(match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        hub_file("owner/name", "a/model.bin")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_hub_file(hub, tmp_path, monkeypatch):
    hub.script = [functools.partial(honest, X_Repo_Commit="c" * 40)] * 2
    path = hub_file("owner/name", "a/model.bin")
    assert path.is_relative_to(tmp_path)
    assert path.read_bytes() == BODY
    monkeypatch.setenv("MLP_MIXER_OFFLINE", "1")
    assert hub_file("owner/name", "a/model.bin") == path
    assert len(hub.ranges) == 2
    (path.parent / path.name).unlink()
    where = re.escape(repr(huggingface_hub.constants.HF_HUB_CACHE))
    hub_refuses(
        f"'a/model.bin' of 'owner/name': .*bring it into {where}, or unset MLP_MIXER_OFFLINE"
    )


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (
            "RepoNotFound",
            "'a/model.bin' of 'owner/name': no such repository, or a closed one; check the name",
        ),
        ("GatedRepo", "no such repository, or a closed one; .*log in"),
        (
            "EntryNotFound",
            "'a/model.bin' of 'owner/name': .*no such file there; check its name",
        ),
        ("RevisionNotFound", "no such revision; give one"),
    ],
)
def test_the_hub_refuses(hub, code, match):
    hub.script = [says(403 if code == "GatedRepo" else 404, X_Error_Code=code)] * 3
    hub_refuses(match)


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (
            errors.HFValidationError("Repo id must be\nin the form"),
            "no name of a repository, such as 'owner/name'",
        ),
        (errors.FileMetadataError("no etag"), "no etag"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (errors.HTTPError(""), "HTTPError"),
        (RuntimeError("of some kind"), "of some kind"),
    ],
)
def test_whatever_the_hub_library_raises(site, monkeypatch, error, match):
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    hub_refuses(f"cannot download 'a/model.bin' of 'owner/name': .*{match}")


def test_the_hub_cannot_be_reached(site, monkeypatch):
    def fail(*_: object, **__: object) -> str:
        raise errors.LocalEntryNotFoundError("An error happened") from ConnectionError(
            "Name or service not known"
        )

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    hub_refuses("Name or service not known; check the connection")


def test_the_import_is_quiet_and_light():
    """The hub's library (with the progress bar) and torch wait until they are needed."""
    command = python(
        "print({'huggingface_hub', 'tqdm', 'torch', 'fsspec'} & set(sys.modules))"
    )
    assert subprocess.run(command, capture_output=True, text=True).stdout == "set()\n"
