"""Shards at an address: fetched once and checked, or read image by image.

What can go wrong in fetching is tested in tests/unit/test_web.py.
"""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from mlp_mixer import remote, web
from mlp_mixer.data import Dataset, open_dataset
from mlp_mixer.data.loader import EvalBatches, stream
from mlp_mixer.data.shard_writer import write_shards
from mlp_mixer.errors import UserError
from mlp_mixer.images.preprocess import Preprocess

EVERYTHING = 10**9


class Site(http.server.ThreadingHTTPServer):
    """Serves a folder.

    Each request is answered as the next entry of `script` says, honestly at the end.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.script: list[Callable[[Handler], None]] = []
        self.asked: list[tuple[str, str | None]] = []  # path and range of each request
        self.go_on = threading.Event()  # what a hanging answer waits for

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/my set"

    def tars(self) -> list[str]:
        return [path for path, _ in self.asked if path.endswith(".tar")]

    def handle_error(self, *_: object) -> None:
        """A client that went away is what many a test is about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        script = self.server.script
        answer = script.pop(0) if script else honest
        answer(self)

    def log_message(self, *_: object) -> None:
        pass

    def answer(
        self, status: int, body: bytes, length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return (self.server.root / self.path.removeprefix("/my%20set/")).read_bytes()


def honest(h: Handler, most: int | None = None) -> None:
    """As RFC 9110 says: the part that was asked for, cut off after `most` bytes."""
    try:
        body = h.body()
    except OSError:
        return h.answer(404, b"no such file")
    if "Range" not in h.headers:
        return h.answer(200, body[:most], len(body))
    start, last = byte_range(h.headers["Range"])
    part = body[start : last + 1]
    told = f"bytes {start}-{start + len(part) - 1}/{len(body)}"
    return h.answer(206, part[:most], len(part), Content_Range=told)


def byte_range(header: str) -> tuple[int, int]:
    """The first and the last byte that a request asks for."""
    start, last = re.fullmatch(r"bytes=(\d+)-(\d+)", header).groups()
    return int(start), int(last)


def cut(most: int) -> Callable[[Handler], None]:
    return functools.partial(honest, most=most)


def whole(h: Handler, most: int | None = None) -> None:
    """As a server that knows no parts."""
    h.answer(200, h.body()[:most], len(h.body()))


def says(
    status: int, body: bytes = b"", length: int | None = None, **headers: str
) -> Callable[[Handler], None]:
    return lambda h: h.answer(status, body, length, **headers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images to train with in three shards, and four to test with in one."""
    rng = np.random.default_rng(0)
    for number in range(16):
        split = "train" if number < 12 else "test"
        place = tmp_path / "photos" / split / f"k{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    photos = open_dataset(str(tmp_path / "photos"))
    write_shards(photos, tmp_path / "set", shard_bytes=20_000)
    assert len(list((tmp_path / "set").rglob("*.tar"))) == 4
    return tmp_path / "set"


@pytest.fixture
def site(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    for name in ("MLP_MIXER_OFFLINE", "HF_HUB_OFFLINE", "MLP_MIXER_SHARD_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(web, "WAITS", (0,) * 5)
    with Site(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.005,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


def pixels(dataset: Dataset) -> list[bytes]:
    found = []
    for images in (dataset.train, dataset.test):
        found += [images.image(index).tobytes() for index in range(len(images))]
    return found


def kept(tmp_path: Path) -> list[str]:
    names = [path.name for path in tmp_path.glob("cache/shards/*/*")]
    return sorted(name for name in names if not name.endswith(".lock"))


def refused(site: Site, match: str, *, image: int | None = 0) -> None:
    """Opening is refused, or else reading an image."""
    if image is None:
        with pytest.raises(UserError, match=match) as caught:
            open_dataset(f"shards:{site.url}")
    else:
        dataset = open_dataset(f"shards:{site.url}")
        with pytest.raises(UserError, match=match) as caught:
            dataset.train.image(image)
    assert type(caught.value) is UserError
    assert "\n" not in str(caught.value)


# It comes


def test_each_file_comes_once_and_when_it_is_touched(site, folder, tmp_path):
    local = open_dataset(str(folder))
    there = open_dataset(f"shards:{site.url}/")
    assert there.fingerprint() == local.fingerprint()
    assert site.tars() == []
    there.train.image(0)
    assert len(site.tars()) == 1
    for _ in range(2):
        assert pixels(there) == pixels(local)
    tars = [path.relative_to(folder) for path in folder.rglob("*.tar")]
    assert sorted(site.tars()) == sorted(f"/my%20set/{path}" for path in tars)
    # Four shards, two indices and dataset.json: no leftovers.
    assert len(kept(tmp_path)) == 7
    assert pixels(open_dataset(f"shards:{site.url}/")) == pixels(local)
    # dataset.json is always looked at.
    assert len(site.asked) == 8


def test_cuts_are_mended_with_the_rest_alone(site, folder):
    dataset = open_dataset(f"shards:{site.url}")
    site.script = [cut(1000), cut(700), says(503), whole]
    assert pixels(dataset) == pixels(open_dataset(str(folder)))
    starts = []
    for path, asked in site.asked:
        if path.endswith(".tar"):
            start, _ = byte_range(asked)
            starts.append(start)
    assert starts == [0, 1000, 1700, 1700, 0, 0, 0]


def test_a_replaced_set_is_noticed_and_old_shards_are_not_mixed_in(
    site, folder, tmp_path
):
    pixels(open_dataset(f"shards:{site.url}"))
    shutil.rmtree(folder)
    photos = open_dataset(str(tmp_path / "photos"))
    write_shards(photos, folder, shard_bytes=20_000, seed=1)
    there = open_dataset(f"shards:{site.url}")
    assert pixels(there) == pixels(open_dataset(str(folder)))


def test_workers_do_not_bring_the_same_shard_twice(site):
    dataset = open_dataset(f"shards:{site.url}")
    batches = EvalBatches(dataset.train, Preprocess((8, 8)), 1)
    assert len(list(stream(batches, range(12), workers=2))) == 12
    assert len(site.tars()) == len(set(site.tars())) == 3


# Little room


def test_what_does_not_fit_is_read_by_parts(site, folder, tmp_path, monkeypatch):
    sizes = [path.stat().st_size for path in sorted(folder.glob("train/*.tar"))]
    rooms = {
        0: 0,
        sizes[0]: 1,
        sizes[0] + sizes[1] - 1: 1,
        sum(sizes): 3,
        EVERYTHING: 4,
    }
    for room, whole_ones in rooms.items():
        monkeypatch.setenv("MLP_MIXER_SHARD_CACHE", str(room))
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        dataset = open_dataset(f"shards:{site.url}")
        assert pixels(dataset) == pixels(open_dataset(str(folder)))
        assert len(kept(tmp_path)) == 3 + whole_ones
        # Files are kept under their hashes.
        files = [p for p in tmp_path.glob("cache/shards/*/*") if len(p.name) == 64]
        used = sum(path.stat().st_size for path in files)
        indices = sum(path.stat().st_size for path in folder.rglob("index.safetensors"))
        assert used - indices <= room


def test_a_part_is_asked_for_alone(site, monkeypatch):
    monkeypatch.setenv("MLP_MIXER_SHARD_CACHE", "0")
    dataset = open_dataset(f"shards:{site.url}")
    size = len(dataset.train.encoded(3))
    start, last = byte_range(site.asked[-1][1])
    assert (start % 512, last + 1 - start) == (0, size)
    site.script = [cut(5), says(500)]
    assert len(dataset.train.encoded(3)) == size
    site.script = [whole]
    message = "comes only as a whole: unset MLP_MIXER_SHARD_CACHE"
    with pytest.raises(UserError, match=message):
        dataset.train.encoded(3)
    site.script = [cut(5)] * 5
    message = rf"gave 5 of the {size} bytes from {start} on; try again"
    with pytest.raises(UserError, match=message):
        dataset.train.encoded(3)


def test_a_limit_that_is_none(site, monkeypatch):
    monkeypatch.setenv("MLP_MIXER_SHARD_CACHE", "plenty")
    refused(site, "cannot read the size 'plenty'", image=None)


# It is refused


def test_offline(site, monkeypatch):
    known = pixels(open_dataset(f"shards:{site.url}"))
    count = len(site.asked)
    for switch in ("MLP_MIXER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(switch, "1")
        assert pixels(open_dataset(f"shards:{site.url}")) == known
        with pytest.raises(UserError, match="the network is switched off"):
            open_dataset(f"shards:{site.url}/other")
        monkeypatch.setenv("MLP_MIXER_SHARD_CACHE", "0")
        refused(site, "the network is switched off")
        monkeypatch.delenv("MLP_MIXER_SHARD_CACHE")
        monkeypatch.delenv(switch)
    assert len(site.asked) == count


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (500, 5)])
def test_a_description_that_is_refused(site, status, requests):
    site.script = [says(status)] * 9
    message = rf"dataset.json answered HTTP Error {status}: .*; check the address"
    refused(site, message, image=None)
    assert len(site.asked) == requests


@pytest.mark.parametrize(
    ("more", "match"),
    [(0, "has the SHA-256 .*: damaged"), (1, r"has \d+ bytes, expected \d+")],
)
def test_another_shard_than_the_one_described(site, folder, tmp_path, more, match):
    for path in folder.glob("train/*.tar"):
        data = path.read_bytes()
        path.write_bytes((data if more else data[:-1]) + b"x")
    refused(site, match)
    assert not [name for name in kept(tmp_path) if name.endswith(".part")]
    assert len(site.tars()) == 1  # it would be the same again


def test_a_page_instead_of_the_description(site, tmp_path):
    site.script = [says(200, b"<!doctype html>")]
    refused(site, "dataset.json' does not describe shards: JSONDecodeError", image=None)


def test_a_description_without_end(site, monkeypatch):
    monkeypatch.setattr("mlp_mixer.data.shards.MOST_BYTES", 100)
    refused(site, "dataset.json has more than 100 bytes", image=None)


@pytest.mark.parametrize(
    "sha256", [None, "", "../../../x", "0" * 63, "0" * 63 + "\n", 5]
)
@pytest.mark.parametrize("file", ["index", "shard"])
def test_a_hash_that_is_none(site, folder, sha256, file):
    described = json.loads((folder / "dataset.json").read_bytes())
    train = described["splits"]["train"]
    record = train["index"] if file == "index" else train["shards"][0]
    record["sha256"] = sha256
    (folder / "dataset.json").write_text(json.dumps(described))
    refused(site, "does not describe shards", image=None)


@pytest.mark.parametrize(
    "address", ["http://user:key@host/x", "https://host/x?key=5", "s3://bucket/x#y"]
)
def test_addresses_with_more_than_a_place(address):
    message = "cannot use the address of '/x': expected one without user, . and #"
    with pytest.raises(UserError, match=message) as caught:
        open_dataset(f"shards:{address}")
    assert "key" not in str(caught.value)


# Object stores


@pytest.fixture
def store(folder: Path, site: Site) -> Iterator[str]:
    """The set in fsspec's store in memory, which stands for s3, gs and the others."""
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/set", recursive=True)
    yield "memory://bucket/set"
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("room", ["", "0"])
def test_an_object_store(store, folder, monkeypatch, room):
    monkeypatch.setenv("MLP_MIXER_SHARD_CACHE", room)
    dataset = open_dataset(f"shards:{store}")
    assert pixels(dataset) == pixels(open_dataset(str(folder)))
    assert dataset.fingerprint() == open_dataset(str(folder)).fingerprint()


def test_an_object_store_piece_by_piece(store, folder, monkeypatch):
    monkeypatch.setattr(remote, "PIECE", 3)
    assert pixels(open_dataset(f"shards:{store}")) == pixels(open_dataset(str(folder)))


def test_an_object_store_is_not_asked_beyond_the_end(store, folder, monkeypatch):
    """Some answer that with an error."""
    kind = type(fsspec.filesystem("memory"))
    read = kind.cat_file
    left = []

    def cat_file(
        self: fsspec.AbstractFileSystem, path: str, start: int, end: int
    ) -> bytes:
        left.append(self.size(path) - start)
        return read(self, path, start=start, end=end)

    monkeypatch.setattr(kind, "cat_file", cat_file)
    assert pixels(open_dataset(f"shards:{store}")) == pixels(open_dataset(str(folder)))
    assert len(left) == 7
    assert min(left) > 0


def test_object_stores_that_fail(store, monkeypatch):
    message = "there is no memory://bucket/other/dataset.json: check the address"
    with pytest.raises(UserError, match=message):
        open_dataset("shards:memory://bucket/other")
    message = r"cannot open nostore://x/dataset.json: .*; try `pip install fsspec s3fs"
    with pytest.raises(UserError, match=message):
        open_dataset("shards:nostore://x")
    dataset = open_dataset(f"shards:{store}")
    answers = [RuntimeError("busy"), RuntimeError("busy")]
    read = type(fsspec.filesystem("memory")).cat_file

    def cat_file(self: object, *arguments: object, **options: object) -> bytes:
        if answers:
            raise answers.pop()
        return read(self, *arguments, **options)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", cat_file)
    dataset.train.image(0)
    answers += [RuntimeError("no\ncredentials")] * 5
    message = "cannot read memory://.*RuntimeError: no credentials; check the address"
    with pytest.raises(UserError, match=message):
        pixels(dataset)


def test_without_fsspec(site, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    message = r"cannot open s3://b/x/dataset.json: .*try `pip install fsspec s3fs"
    with pytest.raises(UserError, match=message):
        open_dataset("shards:s3://b/x")
