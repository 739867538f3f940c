"""Take a form apart in time that grows with its bytes, whatever they are.

The usual parsers go through a body byte by byte on the event loop, and put large files
into a folder of the system. Here the body is searched for its boundary, part by part;
there are few parts, so what remains is copying.
"""

from __future__ import annotations

from typing import NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException

_LONGEST_HEAD = 2**13  # bytes of a part's headers
_LONGEST_BOUNDARY = 256  # RFC 2046 says 70
_MOST_OTHERS = 100  # fields that are not asked for


class Part(NamedTuple):
    """A file of a form.

    Attributes:
        name: Of the file, as the client calls it; may be empty.
        data: Its bytes.
    """

    name: str
    data: bytes


def files_of_form(content_type: str, body: bytes, field: str, most: int) -> list[Part]:
    """Return the files that a form has in one field, in their order.

    Args:
        content_type: The header, with the boundary.
        body: The whole form.
        field: Whose files are wanted; text in it is no file.
        most: How many at most.

    Raises:
        HTTPException: The form is broken, or has too many files or fields.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY:
        raise HTTPException(400, "the form has no boundary in its content type")
    delimiter = b"\r\n--" + boundary
    files: list[Part] = []
    # The first delimiter may stand at the very beginning.
    place = 0 if body.startswith(delimiter[2:]) else body.find(delimiter)
    if place < 0:
        raise HTTPException(400, "the form is invalid: its boundary does not come")
    place += len(delimiter) - (2 if place == 0 else 0)
    for _ in range(most + _MOST_OTHERS + 1):
        if body.startswith(b"--", place):
            return files
        end = body.find(delimiter, place)
        if end < 0:
            raise HTTPException(400, "the form is invalid: it ends inside of a part")
        name, file = _disposition(body, place, end)
        if name == field and file is not None:
            if len(files) == most:
                raise HTTPException(400, f"Too many files: a form has at most {most}")
            start = body.index(b"\r\n\r\n", place) + 4
            files.append(Part(file, body[start:end]))
        place = end + len(delimiter)
    raise HTTPException(400, "Too many files and fields in the form")


def _disposition(body: bytes, place: int, end: int) -> tuple[str, str | None]:
    """Return the field and the name of the file of a part; None: it is text."""
    longest = min(end, place + _LONGEST_HEAD)
    stop = body.find(b"\r\n\r\n", place, longest)
    if stop < 0:
        raise HTTPException(400, "the form is invalid: a part has no end of its head")
    for line in body[place:stop].split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-disposition":
            _, options = parse_options_header(value.decode("latin-1"))
            file = options.get(b"filename")
            name = options.get(b"name", b"")
            shown = None if file is None else file.decode("utf-8", "replace")
            return name.decode("utf-8", "replace"), shown
    raise HTTPException(400, "the form is invalid: a part has no name")
