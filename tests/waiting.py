"""Waiting in tests: on a condition, with a deadline."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bucketline.cli.client import ApiClient, Json
from bucketline.domain.status import FINAL

T = TypeVar("T")


async def eventually(check: Callable[[], Awaitable[T | None]], *, deadline: float = 30.0, pause: float = 0.05) -> T:
    """Return the first true answer of ``check``; fail after ``deadline`` seconds with the last one."""
    answer: T | None = None
    try:
        async with asyncio.timeout(deadline):
            while not (answer := await check()):  # noqa: ASYNC110 - what is waited for is another process
                await asyncio.sleep(pause)
    except TimeoutError:
        raise AssertionError(f"not true within {deadline} s; the last answer was {answer!r}") from None
    return answer


async def over(client: ApiClient, path: str) -> Json | None:
    """The batch, object or task at ``path`` once it is over, however it ended, None before; for :func:`eventually`."""
    found = await client.get(path)
    return found if found["status"] in FINAL else None


async def completed(client: ApiClient, path: str) -> Json | None:
    """What is at ``path`` once it is COMPLETED, None before; for :func:`eventually`. Fails at once when it FAILED."""
    found = await client.get(path)
    assert found["status"] != "FAILED", found
    return found if found["status"] == "COMPLETED" else None


def present(value: T | None) -> T:
    """Return ``value``, which must not be None."""
    assert value is not None
    return value
