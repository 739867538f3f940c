"""Take the pictures out of a request, whatever its form, and describe the forms."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Message

from ..inference import Prediction


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
        return _from_json(body)
    if kind == "multipart/form-data":
        return Question(await _from_form(request, body, most_files), top, explain)
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        return Question([("picture", body)], top, explain)
    raise HTTPException(
        415,
        f"cannot read {kind[:60]!r}: send image/*, multipart/form-data, or JSON with "
        "base64",
    )


def _from_json(body: bytes) -> Question:
    try:
        asked = EncodedPicture.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    try:
        data = base64.b64decode(_plain_base64(asked.image), validate=True)
    except ValueError as error:
        sentence = f"image is wrong: it is no base64 ({error})"
        raise HTTPException(422, sentence) from error
    return Question([("picture", data)], asked.top, asked.explain)


def _plain_base64(text: str) -> str:
    """Return base64 without the head of a data URL, and without MIME's line breaks."""
    head, comma, rest = text.partition(",")
    is_url = head.lower().startswith("data:") and head.lower().endswith(";base64")
    return "".join((rest if comma and is_url else text).split())


async def _from_form(
    request: Request, body: bytes, most_files: int
) -> list[tuple[str, bytes]]:
    async def again() -> Message:
        return {"type": "http.request", "body": body}

    # The body was read within the limits; the parser gets it from memory.
    parsed = Request(request.scope, again)
    async with parsed.form(max_files=most_files, max_fields=most_files) as form:
        pictures = []
        for part in form.getlist("file"):
            if not isinstance(part, str):
                pictures.append((part.filename or "picture", await part.read()))
    if not pictures:
        raise HTTPException(
            422, "the form has no picture: send it as a file in the field 'file'"
        )
    return pictures
