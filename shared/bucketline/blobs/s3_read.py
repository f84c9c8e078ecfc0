"""Reading an object as a stream that survives broken connections."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from bucketline.blobs.s3_errors import Backoff, KeyTaken
from bucketline.blobs.store import ByteRange, Content, ContentTooLarge, ObjectInfo
from bucketline.errors import DependencyUnavailable

CHUNK_BYTES = 256 * 1024


class Body(Protocol):
    """The rest of one reply. ``read`` raises StoreUnavailable when the connection breaks, and is empty at the end."""

    async def read(self, most: int) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """One GET: what it is about, the position of its first byte, how many bytes come, and the bytes."""

    head: ObjectInfo
    first: int
    length: int
    body: Body


class Fetch(Protocol):
    """One GET of one object from ``span`` (the whole if None), only if it still has ``etag``."""

    def __call__(self, span: str | None, etag: str | None) -> Awaitable[Reply]: ...


@asynccontextmanager
async def reading(fetch: Fetch, *, span: ByteRange | None, limit: int, backoff: Backoff) -> AsyncIterator[Content]:
    """Opens the object; :class:`ContentTooLarge` if more than ``limit`` bytes would come."""
    reply = await fetch(None if span is None else f"bytes={span[0]}-{span[1]}", None)
    if reply.length > limit:
        reply.body.close()
        raise ContentTooLarge(limit)
    chunks = _chunks(fetch, reply, backoff)
    try:
        yield Content(reply.head, chunks)
    finally:
        await chunks.aclose()
        reply.body.close()


async def _chunks(fetch: Fetch, reply: Reply, backoff: Backoff) -> AsyncGenerator[bytes, None]:
    position, end = reply.first, reply.first + reply.length
    async for attempt in backoff.tries():
        body = reply.body
        try:
            if attempt:
                body = (await fetch(f"bytes={position}-{end - 1}", reply.head.etag)).body
            while position < end:
                chunk = await body.read(min(CHUNK_BYTES, end - position))
                if not chunk:
                    raise DependencyUnavailable("S3 ended the content early")
                position += len(chunk)
                yield chunk
            return
        except KeyTaken as error:
            raise DependencyUnavailable("the object changed while it was read") from error
        except DependencyUnavailable:
            if attempt == backoff.attempts - 1:
                raise
        finally:
            body.close()
