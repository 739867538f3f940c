"""What is held of bodies in memory is given back, however reading them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from mlp_mixer.serve import Limits
from mlp_mixer.serve.limits import Bodies


def request(*chunks: bytes, ends: bool = True, **headers: str) -> Request:
    """Return a request whose body comes in parts; without an end it waits for ever."""
    waiting = list(chunks)
    pairs = []
    for name, value in headers.items():
        pairs.append((name.replace("_", "-").encode(), value.encode()))

    async def receive() -> Message:
        if waiting:
            more = len(waiting) > 1 or not ends
            return {"type": "http.request", "body": waiting.pop(0), "more_body": more}
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")

    return Request({"type": "http", "headers": pairs}, receive)


def refused(
    bodies: Bodies, read: Callable[[], Coroutine[Any, Any, None]]
) -> HTTPException:
    """Run a reading that ends in a refusal, after which nothing is held."""
    with pytest.raises(HTTPException) as error:
        asyncio.run(read())
    assert bodies.held == 0
    return error.value


def test_a_body_is_held_until_the_block_ends() -> None:
    bodies = Bodies(Limits())

    async def read() -> None:
        async with bodies.read(request(b"12", b"345")) as body:
            assert body == b"12345"
            assert bodies.held == 5
            async with bodies.read(request(b"67")) as other:
                assert other == b"67"
                assert bodies.held == 7
            assert bodies.held == 5

    asyncio.run(read())
    assert bodies.held == 0


def test_an_error_of_the_block_passes_through_and_gives_back() -> None:
    """Also a timeout of the answer, which is no timeout of the body."""
    bodies = Bodies(Limits())

    async def read(error: BaseException) -> None:
        async with bodies.read(request(b"12345")):
            raise error

    for error in (ValueError("ours"), TimeoutError("the answer's")):
        with pytest.raises(type(error), match=str(error)):
            asyncio.run(read(error))
        assert bodies.held == 0


@pytest.mark.parametrize(
    "sent",
    [
        request(b"1234", b"5678", b"9"),
        request(b"", content_length="9"),
        request(b"123456789"),
    ],
)
def test_a_large_body_is_refused(sent: Request) -> None:
    bodies = Bodies(Limits(max_bytes=8))

    async def read() -> None:
        async with bodies.read(sent):
            raise AssertionError("it was taken in")

    assert refused(bodies, read).status_code == 413


def test_all_bodies_together_have_a_bound() -> None:
    bodies = Bodies(Limits(held_bytes=8))

    async def read() -> None:
        async with bodies.read(request(b"12345")), bodies.read(request(b"12", b"34")):
            raise AssertionError("it was taken in")

    assert refused(bodies, read).status_code == 503


def test_a_body_that_never_ends_is_given_up() -> None:
    bodies = Bodies(Limits(seconds=0.01))

    async def read() -> None:
        async with bodies.read(request(b"1", ends=False)):
            raise AssertionError("it was taken in")

    error = refused(bodies, read)
    assert (error.status_code, error.headers) == (408, {"Connection": "close"})


def test_a_client_that_goes_away_leaves_nothing() -> None:
    bodies = Bodies(Limits())

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def read() -> None:
        gone = Request({"type": "http", "headers": []}, receive)
        async with bodies.read(gone):
            raise AssertionError("it was taken in")

    assert refused(bodies, read).status_code == 408


def test_a_cancelled_request_gives_back() -> None:
    bodies = Bodies(Limits())

    async def read() -> None:
        async with bodies.read(request(b"12345", ends=False)):
            raise AssertionError("it was taken in")

    async def cancel() -> None:
        task = asyncio.create_task(read())
        while not bodies.held:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert bodies.held == 0
