"""A time limit that stands still while its owner waits for its turn."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from bucketline.extractors import ResourceError


class PausableTimeout:
    """``async with Deadline(60) as deadline``: :class:`ResourceError` when the block takes longer.

    What is spent inside :meth:`paused` does not count.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout(self._seconds)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise ResourceError(f"processing this object took longer than {self._seconds:g} seconds") from late

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The clock stands still."""
        now = asyncio.get_running_loop().time
        ends = self._timeout.when()
        left = 0.0 if ends is None else ends - now()
        if not self._timeout.expired():
            self._timeout.reschedule(None)
        try:
            yield
        finally:
            if not self._timeout.expired():
                self._timeout.reschedule(now() + left)
