"""Take the pictures out of a request, whatever its form, and describe the forms."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from ..inference import Prediction
from .multipart import files_of_form

# Bytes; the event loop reads a smaller body itself.
_SMALL = 2**16
# Of JSON: quotes, and bytes that are no text between quotes.
_MOST_QUOTES = 64
_MOST_OUTSIDE = 2**14
# One byte of text in so many may be escaped; PHP escapes each /, one byte in 64.
_ESCAPED = 8
_LONGEST_DATA_HEAD = 256
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EXPECTED = 'Invalid JSON: expected {"image": base64, "top": 5, "explain": false}'

# Reading holds Python's lock, so large bodies have nothing to gain from one another,
# and each of them takes memory for copies of its text meanwhile.
_ONE_AT_A_TIME = threading.Lock()

T = TypeVar("T")


class EncodedPicture(BaseModel, extra="forbid"):
    """A picture inside JSON: the bytes of its file in base64, or a data URL of them."""

    image: str = Field(min_length=1, json_schema_extra={"contentEncoding": "base64"})
    top: int = Field(5, ge=1, le=1000)
    explain: bool = False


class Fault(BaseModel):
    """Why there is no answer, in one sentence; `path` for one of several pictures."""

    error: str
    path: str | None = None


class Answers(BaseModel):
    """The prediction for each picture.

    If that was asked for, one has besides PNG data URLs: `explanation`, the map over what
    the network saw, and `explanation_map`, the map alone and transparent. It lies in
    `explanation_box` of the picture: top, left, bottom, right, from 0 to 1.
    """

    predictions: list[Prediction | Fault]
    milliseconds: float


class Question(NamedTuple):
    """Hold what a request asks.

    Attributes:
        pictures: Name and bytes of each file.
        top: How many classes to name.
        explain: Whether to draw what spoke for the answer.
    """

    pictures: list[tuple[str, bytes]]
    top: int
    explain: bool


_FILE: dict[str, Any] = {"type": "string", "format": "binary"}
_FILES: dict[str, Any] = {
    "type": "object",
    "properties": {"file": {"type": "array", "items": _FILE, "minItems": 1}},
    "required": ["file"],
}
_RAW = ("application/octet-stream", "image/jpeg", "image/png", "image/webp")
BODY: dict[str, Any] = {
    **{kind: {"schema": _FILE} for kind in _RAW},
    "multipart/form-data": {"schema": _FILES},
    "application/json": {"schema": EncodedPicture.model_json_schema()},
}
"""The forms of a request by content type, for openapi.json."""


async def read_question(
    request: Request, body: bytes, top: int, explain: bool, most_files: int
) -> Question:
    """Read what a request asks: the body as a picture, a form with files, or JSON.

    Args:
        request: For its headers.
        body: Its whole body.
        top: As its address says; JSON has its own.
        explain: As its address says; JSON has its own.
        most_files: In a form.

    Returns:
        The pictures and what to say of them.

    Raises:
        HTTPException: The body is not what the content type says, or that is unknown.
        RequestValidationError: A field of the JSON is wrong.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return await _aside(body, _from_json, body)
    if kind == "multipart/form-data":
        files = await _aside(
            body, files_of_form, content_type, body, "file", most_files
        )
        if not files:
            raise HTTPException(
                422, "the form has no picture: send it as a file in the field 'file'"
            )
        pictures = [(name or "picture", data) for name, data in files]
        return Question(pictures, top, explain)
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        return Question([("picture", body)], top, explain)
    raise HTTPException(
        415,
        f"cannot read {kind[:60]!r}: send image/*, multipart/form-data, or JSON with "
        "base64",
    )


async def _aside(body: bytes, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a thread if the body is large, so that nobody else waits."""
    if len(body) <= _SMALL:
        return function(*arguments)

    def alone() -> T:
        with _ONE_AT_A_TIME:
            return function(*arguments)

    return await asyncio.to_thread(alone)


def _from_json(body: bytes) -> Question:
    text = _checked(body.removeprefix(_BYTE_ORDER_MARK))
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"Invalid JSON: {str(error)[:100]}") from error
    if not isinstance(values, dict):
        raise HTTPException(422, _EXPECTED)
    try:
        asked = EncodedPicture.model_validate(values, strict=False)
    except ValidationError as error:
        # What came is not repeated: it may be large.
        faults = error.errors(include_url=False, include_input=False)
        raise RequestValidationError(faults) from error
    try:
        data = base64.b64decode(_plain_base64(asked.image), validate=True)
    except ValueError as error:
        sentence = f"image is wrong: it is no base64 ({error})"
        raise HTTPException(422, sentence) from error
    return Question([("picture", data)], asked.top, asked.explain)


def _checked(body: bytes) -> str:
    """Return the text of JSON; refuse more than a picture and a few settings.

    Parsers take thousands of times the memory of `[[],[],[], ...` and are not
    interrupted meanwhile. A picture is one long text, so all else must be short.
    """
    # Base64 needs no other letters. One of them among millions would make each of them
    # take four bytes, and in UTF-16 a quote may be half of another letter.
    wide = body.count(b"\\u") - body.count(b"\\u00")
    if wide or not body.isascii():
        raise HTTPException(422, f"{_EXPECTED}, without characters beyond ASCII")
    if body.count(b"\\") > len(body) // _ESCAPED + _MOST_QUOTES:
        raise HTTPException(422, f"{_EXPECTED}, and not so many escapes")
    _check_shape(body.replace(b"\\\\", b"").replace(b'\\"', b""))
    return body.decode("ascii")


def _check_shape(body: bytes) -> None:
    """Refuse JSON with much outside of its texts, in which no quote is escaped."""
    outside = 0
    place = 0
    for number in range(_MOST_QUOTES + 1):
        quote = body.find(b'"', place)
        # Between an even and an odd quote there is no text.
        if number % 2 == 0:
            outside += (len(body) if quote < 0 else quote) - place
        if outside > _MOST_OUTSIDE:
            raise HTTPException(422, f"{_EXPECTED}, and nothing else")
        if quote < 0:
            return
        place = quote + 1
    raise HTTPException(422, f"{_EXPECTED}, and not so many fields")


_BLANKS = str.maketrans("", "", " \t\r\n\v\f")


def _plain_base64(text: str) -> str:
    """Return base64 without the head of a data URL, and without MIME's line breaks."""
    head = text[:_LONGEST_DATA_HEAD].partition(",")[0].lower()
    if head.startswith("data:") and head.endswith(";base64"):
        text = text[len(head) + 1 :]
    return text.translate(_BLANKS)
