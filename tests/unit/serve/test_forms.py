"""JSON and forms of any shape are read in little time, or refused in one sentence."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from typing import Any

import pytest
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mlp_mixer.serve.forms import Question, read_question
from mlp_mixer.serve.multipart import files_of_form

SIZE = 2**20
DATA = bytes(range(256)) * 40
TEXT = base64.b64encode(DATA).decode()
FORM = "multipart/form-data; boundary=xYz"


def ask(body: bytes, kind: str = "application/json", most: int = 3) -> Question:
    pairs = [(b"content-type", kind.encode())]
    request = Request({"type": "http", "headers": pairs})
    return asyncio.run(read_question(request, body, 5, False, most))


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"image": TEXT}),
        json.dumps({"image": TEXT}).replace("/", "\\/"),
        json.dumps({"image": f"data:image/png;base64,{TEXT}"}),
        json.dumps({"image": f"data:;BASE64,{TEXT}"}),
        json.dumps({"image": base64.encodebytes(DATA).decode()}),
        json.dumps({"image": base64.encodebytes(DATA).decode().replace("\n", "\r\n")}),
        json.dumps({"image": TEXT}, indent=200),
        # As .NET writes it.
        json.dumps({"image": TEXT}).replace("+", "\\u002B"),
        "\ufeff" + json.dumps({"image": TEXT, "top": 5}),
    ],
)
def test_json_as_programs_write_it_is_read(body: str) -> None:
    assert ask(body.encode()).pictures == [("picture", DATA)]


PAIRS = b"[]," * (SIZE // 3) + b"1]}"
# In UTF-16 one byte of this letter looks like a quote.
WIDE = '{"image":"\u2200","x":[' + "[]," * (SIZE // 6) + "1]}"

HOSTILE_JSON = {
    "keys": b"{" + b",".join(b'"%07d":1' % i for i in range(SIZE // 11)) + b"}",
    "lists": b"[" * SIZE,
    "pairs of lists": b'{"image":[' + PAIRS,
    "pairs behind an escaped quote": b'{"image":"\\"","x":[' + PAIRS,
    "pairs behind backslashes": b'{"image":"\\\\\\\\\\"","x":[' + PAIRS,
    "pairs behind a quote and a backslash": b'{"a":"\\"\\\\","x":[' + PAIRS,
    "pairs behind half a letter": WIDE.encode("utf-16"),
    "pairs in UTF-32": WIDE.encode("utf-32"),
    "a wide letter": b'{"image":"\\ud83d\\ude00' + b"A" * SIZE + b'"}',
    "a wide letter as it is": '{"image":"\N{GRINNING FACE}'.encode() + b"A" * SIZE,
    "deep": b'{"image":' + b'{"a":' * 2_000 + b"1" + b"}" * 2_001,
    "escapes": b'{"image":"' + b"\\n" * (SIZE // 2) + b'"}',
    "escaped letters": b'{"image":"' + b"\\u0041" * (SIZE // 6) + b'"}',
    "quotes": b'{"image":"' + b'\\"' * (SIZE // 2) + b'"}',
    "blanks": b" " * SIZE + b"{}",
    "a long number": b'{"image":"x","top":' + b"9" * SIZE + b"}",
    "a number of 5,000 digits": b'{"image":"x","top":' + b"9" * 5_000 + b"}",
    "a long key": b'{"' + b"k" * SIZE + b'":1,"image":"x"}',
    "letters": b'{"image":"' + "é".encode() * (SIZE // 2) + b'"}',
    "no text": b"\xff\xfe" * (SIZE // 2),
    "open": b'{"image":"' + b"A" * SIZE,
    "nothing": b"",
    "NaN": b'{"image":"QUJD","top":NaN}',
    "UTF-16": json.dumps({"image": "?"}).encode("utf-16"),
}


@pytest.mark.parametrize("body", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_json_of_other_shapes_is_refused_with_few_objects(body: bytes) -> None:
    tracemalloc.start()
    with pytest.raises((HTTPException, RequestValidationError)) as refused:
        ask(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Whole parsers take some hundred bytes for each of these.
    assert peak < 8 * SIZE
    if isinstance(refused.value, HTTPException):
        assert refused.value.status_code == 422
        assert len(refused.value.detail) < 300


def part(name: str, data: bytes, file: str | None = "a.png") -> bytes:
    shown = "" if file is None else f'; filename="{file}"'
    head = f'Content-Disposition: form-data; name="{name}"{shown}\r\n'
    return b"--xYz\r\n" + head.encode() + b"Content-Type: x/y\r\n\r\n" + data + b"\r\n"


END = b"--xYz--\r\n"
FILE = part("file", DATA)


def test_forms_as_programs_write_them_are_read() -> None:
    tricky = b"\r\n--xY\r\n\r\n--x\r\n" + DATA
    body = b"preamble\r\n" + part("note", b"x", None) + part("file", tricky, "ü.png")
    body += part("file", b"", "") + part("other", b"y") + END + b"epilogue"
    assert ask(body, FORM).pictures == [("ü.png", tricky), ("picture", b"")]
    quoted = 'multipart/form-data; charset=utf-8; boundary="xYz"'
    assert ask(FILE + END, quoted).pictures == [("a.png", DATA)]
    # A field of text is no file.
    with pytest.raises(HTTPException, match="no picture"):
        ask(part("file", b"text", None) + END, FORM)


HOSTILE_FORMS: dict[str, Any] = {
    "files": (FILE * 4 + END, "Too many files"),
    "parts": (part("a", b"") * (SIZE // 80), "Too many files and fields"),
    "no end": (FILE, "ends inside of a part"),
    "no part": (END[:-4], "ends inside of a part"),
    "no boundary": (DATA, "does not come"),
    "a long head": (b"--xYz\r\n" + b"a: b\r\n" * (SIZE // 6) + END, "end of its head"),
    "no name": (b"--xYz\r\nA: b\r\n\r\n1\r\n" + END, "has no name"),
    "near misses": (FILE[:80] + b"\r\n--xY" * (SIZE // 6), "ends inside of a part"),
    "returns": (b"\r" * SIZE, "does not come"),
    "nothing": (b"", "does not come"),
}


@pytest.mark.parametrize(("body", "words"), HOSTILE_FORMS.values(), ids=HOSTILE_FORMS)
def test_forms_of_other_shapes_are_refused(body: bytes, words: str) -> None:
    with pytest.raises(HTTPException, match=words) as refused:
        ask(body, FORM)
    assert refused.value.status_code == 400


@pytest.mark.parametrize("kind", ["multipart/form-data", f"{FORM}{'x' * 999}"])
def test_a_boundary_is_needed(kind: str) -> None:
    with pytest.raises(HTTPException, match="no boundary"):
        files_of_form(kind, FILE + END, "file", 3)
