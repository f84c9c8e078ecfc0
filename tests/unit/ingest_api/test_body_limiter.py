"""BodyLimiter: large bodies share the memory, small ones never wait, and slow clients release what they hold."""

import asyncio
import json
import time
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.types import Message

from bucketline.errors import BadRequest, PayloadTooLarge, ServiceUnavailable, ValidationFailed
from bucketline_ingest_api.middleware import MAX_VALUES, BodyLimiter, ValueCounter

ANNOUNCED, CHUNKED = Headers({"content-length": "60"}), Headers({"transfer-encoding": "chunked"})


def make_limiter(*, max_inflight_bytes: int = 100, wait_seconds: float = 0.01) -> BodyLimiter:
    return BodyLimiter(60, max_inflight_bytes, small_bytes=10, wait_seconds=wait_seconds, arrival_seconds=0.01)


async def receive_body(limiter: BodyLimiter, pieces: list[int], headers: Headers, stack: AsyncExitStack) -> int:
    """Return how many bytes arrived. If the pieces have fewer than 60 bytes, the client stops sending after them."""
    remaining = list(pieces)

    async def receive() -> Message:
        if not remaining:
            await asyncio.Event().wait()
        size = remaining.pop(0)
        return {"type": "http.request", "body": b"x" * size, "more_body": sum(pieces) - sum(remaining) < 60}

    limited, received = limiter.wrap_receive(receive, headers, stack), 0
    while True:
        message = await limited()
        received += len(message["body"])
        if not message["more_body"]:
            return received


@pytest.mark.parametrize("headers", [ANNOUNCED, CHUNKED])
async def test_large_body_waits_until_another_releases_its_memory(headers: Headers) -> None:
    limiter = make_limiter(wait_seconds=5)
    async with AsyncExitStack() as first:
        assert await receive_body(limiter, [30, 30], headers, first) == 60
        async with AsyncExitStack() as second:
            waiting = asyncio.create_task(receive_body(limiter, [30, 30], headers, second))
            done, _ = await asyncio.wait([waiting], timeout=0.02)
            assert not done
            await first.aclose()
            assert await waiting == 60


async def test_large_body_that_waits_too_long_returns_503() -> None:
    limiter = make_limiter()
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        await receive_body(limiter, [60], ANNOUNCED, first)
        with pytest.raises(ServiceUnavailable) as refused:
            await receive_body(limiter, [60], ANNOUNCED, second)
    assert refused.value.headers["Retry-After"] == "5"


async def test_small_body_does_not_wait() -> None:
    limiter = make_limiter(max_inflight_bytes=20)
    async with AsyncExitStack() as first:
        await receive_body(limiter, [60], ANNOUNCED, first)
        for _ in range(50):
            async with AsyncExitStack() as held:
                small = limiter.wrap_receive(_once(10), Headers({"content-length": "10"}), held)
                assert len((await small())["body"]) == 10


async def test_slow_body_returns_400_and_releases_its_memory() -> None:
    limiter = make_limiter()
    async with AsyncExitStack() as slow:
        with pytest.raises(BadRequest, match="did not arrive"):
            await receive_body(limiter, [30], ANNOUNCED, slow)
    async with AsyncExitStack() as next_one:
        assert await receive_body(limiter, [60], ANNOUNCED, next_one) == 60


async def test_disconnect_after_the_body_may_take_any_time() -> None:
    """A streamed response may end long after the request body has arrived."""
    went = asyncio.Event()

    async def receive() -> Message:
        if not sent:
            sent.append(1)
            return {"type": "http.request", "body": b"x" * 60, "more_body": False}
        await went.wait()
        return {"type": "http.disconnect"}

    sent: list[int] = []
    async with AsyncExitStack() as held:
        counted = make_limiter().wrap_receive(receive, ANNOUNCED, held)
        await counted()
        going = asyncio.ensure_future(counted())
        done, _ = await asyncio.wait([going], timeout=0.05)
        assert not done
        went.set()
        assert (await going)["type"] == "http.disconnect"


async def test_body_above_the_limit_returns_413() -> None:
    async with AsyncExitStack() as held:
        with pytest.raises(PayloadTooLarge):
            make_limiter().wrap_receive(_once(1), Headers({"content-length": "61"}), held)
        counted = make_limiter().wrap_receive(_once(61), CHUNKED, held)
        with pytest.raises(PayloadTooLarge):
            await counted()


def _once(size: int):  # type: ignore[no-untyped-def]  # starlette's Receive
    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * size, "more_body": False}

    return receive


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", ',"', "{[,", '\\"', "\\\\"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


def values_in(value: object) -> int:
    """Count members and elements; an empty object or array counts as one."""
    if isinstance(value, dict | list):
        inner = list(value.values() if isinstance(value, dict) else value)
        return max(1, len(inner)) + sum(map(values_in, inner))
    return 0


@given(JSON, st.booleans(), st.integers(1, 20))
def test_value_counter_counts_members_and_elements_however_the_body_is_cut(
    value: object, ascii_only: bool, size: int
) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode()
    counter = ValueCounter()
    for start in range(0, len(raw), size):
        counter.feed(raw[start : start + size])
    assert counter.count == values_in(value)


WIDE = {
    "fields": {f"k{n}": n for n in range(MAX_VALUES + 1)},
    "nested keys": {"a": {f"k{n}": n for n in range(300_000)}},
    "blobs": {"blobs": [{"property": "note", "type": "text", "data": "x"}] * 200_000},
    "empty objects": [{}] * (MAX_VALUES + 1),
    "numbers": [0] * (MAX_VALUES + 1),
    "nesting": {"a": [[[1, 2], [3, 4]]] * MAX_VALUES},
}
NARROW = {
    "numbers": [0] * MAX_VALUES,
    "text like JSON": {"a": json.dumps([{"k": 1}] * 300_000)},
    "text of commas": {"a": "," * 1_000_000},
    "text of quotes": {"a": '"' * 500_000},
    "text of backslashes": {"a": "\\" * 500_000},
}


async def feed(value: object, *, announce: bool) -> None:
    raw = json.dumps(value).encode()
    pieces = [raw[start : start + 65536] for start in range(0, len(raw), 65536)]
    headers = Headers({"content-length": str(len(raw))}) if announce else CHUNKED

    async def receive() -> Message:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async with AsyncExitStack() as held:
        counted = BodyLimiter(1 << 26, 1 << 27).wrap_receive(receive, headers, held)
        while (await counted())["more_body"]:
            pass


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize("value", WIDE.values(), ids=WIDE)
async def test_body_with_too_many_values_returns_422(value: object, announce: bool) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await feed(value, announce=announce)
    assert [fault["type"] for fault in refused.value.issues] == ["too_many_values"]


@pytest.mark.parametrize("value", NARROW.values(), ids=NARROW)
async def test_body_with_few_values_is_accepted_in_time(value: object) -> None:
    started = time.process_time()
    await feed(value, announce=True)
    assert time.process_time() - started < 2
