"""Bodies of requests: how long and how wide one may be, and how much room all of them have together.

A body is in memory as it came, as text, and as what it says. A few large ones at the same moment would be the end of a
process that has done nothing wrong, so large ones wait for each other; small ones never wait.

What a body costs depends less on its bytes than on how many values it has: each becomes an object of its own, which is
validated, stored and shown. So values are counted while the bytes arrive, before anything is parsed.
"""

import asyncio
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from bucketline.errors import BadRequest, PayloadTooLarge, ServiceUnavailable, ValidationFailed, ValidationIssue
from bucketline.weighted_semaphore import WeightedSemaphore

MAX_VALUES = 100_000
"""Members of objects and elements of arrays, all of a body together."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|(\\?)\Z)', re.DOTALL)
"""A string, or the beginning of one that goes on in the next piece; that has the group: the half of an escape."""


class ValueCounter:
    """Counts the values of JSON text that arrives in pieces, without parsing it.

    Each member and element has a comma before it, or the bracket of its object or array. For text that is not JSON the
    count means nothing; the parser refuses that.
    """

    def __init__(self) -> None:
        self.count = 0
        self._open: bytes | None = None

    def feed(self, piece: bytes) -> int:
        """The count including this piece."""
        text = piece if self._open is None else b'"' + self._open + piece
        self._open = None
        outside = _STRING.sub(self._remove, text)
        self.count += outside.count(b",") + outside.count(b"{") + outside.count(b"[")
        return self.count

    def _remove(self, string: re.Match[bytes]) -> bytes:
        self._open = string[1]
        return b""


@dataclass(frozen=True)
class Bounds:
    """``most`` bytes a body; ``together`` for all that are larger than ``small`` and are being dealt with.

    A large one waits ``patience`` seconds for its room, and then has to arrive within ``arrival`` seconds: a client
    that sends slowly must not keep all others waiting.
    """

    most: int
    together: int
    small: int = 1024 * 1024
    patience: float = 20.0
    arrival: float = 60.0


class BodyLimiter:
    """Takes the bodies in, for one process."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._room = WeightedSemaphore(bounds.together)

    def taken_in(self, receive: Receive, headers: Headers, held: AsyncExitStack) -> Receive:
        """Receives a body piece by piece; what it takes of the room is given back when ``held`` is closed.

        Raises ``PayloadTooLarge``, at once where the length is announced; ``ValidationFailed`` for more than
        :data:`MAX_VALUES` values; ``ServiceUnavailable`` when there is no room in time; ``BadRequest`` when the body
        does not arrive in time.
        """
        bounds, taken = self._bounds, 0
        due: float | None = None
        given = headers.get("content-length", "")
        announced = int(given) if given.isdigit() else None
        if announced is not None and announced > bounds.most:
            raise self._refusal()
        # a value and its comma have two bytes: shorter bodies need not be looked at
        values = ValueCounter() if announced is None or announced > 2 * MAX_VALUES else None

        async def counted() -> Message:
            nonlocal taken, due
            message = await receive() if due is None else await self._before(due, receive)
            if message["type"] != "http.request":
                return message
            taken += len(message.get("body", b""))
            if taken > bounds.most:
                raise self._refusal()
            if values is not None and values.feed(message.get("body", b"")) > MAX_VALUES:
                raise too_many_values()
            if due is None and taken > bounds.small:
                await self._wait(bounds.most if announced is None else announced, held)
                due = asyncio.get_running_loop().time() + bounds.arrival
            if not message.get("more_body"):
                # What comes after the body is that the client goes, and nobody is in a hurry for that.
                due = None
            return message

        return counted

    async def _wait(self, size: int, held: AsyncExitStack) -> None:
        try:
            async with asyncio.timeout(self._bounds.patience):
                await held.enter_async_context(self._room.reserve(size))
        except TimeoutError:
            raise ServiceUnavailable("too many large requests at once, try again") from None

    async def _before(self, due: float, receive: Receive) -> Message:
        try:
            async with asyncio.timeout_at(due):
                return await receive()
        except TimeoutError:
            raise BadRequest(f"the body did not arrive within {self._bounds.arrival:g} seconds") from None

    def _refusal(self) -> PayloadTooLarge:
        most = self._bounds.most
        return PayloadTooLarge(f"the body is larger than {most} bytes", details={"limit_bytes": most})


def too_many_values() -> ValidationFailed:
    message = f"a body has at most {MAX_VALUES} members and elements: send less with each request"
    return ValidationFailed([ValidationIssue("too_many_values", ("body",), message)])
