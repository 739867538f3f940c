"""Read pictures ahead of what computes them: one batch is read while one is computed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from ..errors import UserError
from ..images.decode import decode_image
from .pictures import NamedPicture, Picture, fetched, is_url
from .results import Failure

X = TypeVar("X")

ReadFn = Callable[["Picture | Failure", str], "X | Failure"]
"""A picture and its name -> the network's input, or why there is none."""

_MOST_READERS = 8  # threads


def read(
    picture: Picture | Failure,
    name: str,
    channels: int,
    prepare: Callable[[np.ndarray[Any, Any]], X],
) -> X | Failure:
    """Return the network's input for a picture, or why it cannot be read.

    Args:
        picture: A picture, or a failure to pass on.
        name: Of the picture.
        channels: To decode it to.
        prepare: A decoded image, uint8 (H, W, C) -> the network's input.
    """
    if isinstance(picture, Failure):
        return picture
    try:
        return prepare(decode_image(fetched(picture), channels=channels))
    # UserError is one; a path with a null byte raises another.
    except ValueError as error:
        sentence = str(error)
        if is_url(picture) and name not in sentence:
            sentence = f"{name!r}: {sentence}"
        return Failure(name, sentence)


def batches(
    read_one: ReadFn[X], pictures: Iterator[NamedPicture], batch_size: int
) -> Iterator[list[tuple[str, X | Failure]]]:
    """Yield names and inputs; threads read a batch while the last one is computed.

    No more than two batches are in memory.

    Args:
        read_one: Reads one picture.
        pictures: All of them, with their names.
        batch_size: How many to read at a time.

    Raises:
        UserError: The size is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    # One picture does not repay the start of threads.
    first = list(itertools.islice(pictures, 2)) if batch_size > 1 else []
    if len(first) < 2:
        for name, picture in itertools.chain(first, pictures):
            yield [(name, read_one(picture, name))]
        return
    pictures = itertools.chain(first, pictures)
    pool = ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1), "pictures")
    try:
        reading = _start(pool, read_one, pictures, batch_size)
        while reading:
            # The next batch is begun before this one is waited for.
            ahead = _start(pool, read_one, pictures, batch_size)
            yield [(name, future.result()) for name, future in reading]
            reading = ahead
    finally:
        pool.shutdown(cancel_futures=True)


def _start(
    pool: ThreadPoolExecutor,
    read_one: ReadFn[X],
    pictures: Iterator[NamedPicture],
    count: int,
) -> list[tuple[str, Future[X | Failure]]]:
    return [
        (name, pool.submit(read_one, picture, name))
        for name, picture in itertools.islice(pictures, count)
    ]
