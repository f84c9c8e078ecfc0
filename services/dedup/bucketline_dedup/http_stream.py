"""Reads one HTTP body: bounded, paced, counted, and resumed where the source supports it.

Only time spent *waiting for the source* counts against it. A slow consumer (an S3 upload) slows the source down through
TCP, and must not make it look slow.
"""

import asyncio
import codecs
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from email.header import decode_header, make_header
from email.message import Message
from email.utils import collapse_rfc2231_value
from urllib.parse import unquote

from aiohttp import ClientError, ClientResponse
from aiohttp.http import HttpProcessingError

from bucketline.domain.media_types import safe_filename
from bucketline.http.ssrf import CheckedUrl
from bucketline_dedup.content_coding import codings_of, decode
from bucketline_dedup.errors import SourceTooLarge, SourceUnavailable
from bucketline_dedup.media_type import MEDIA_TYPE

MIN_CHUNK_BYTES = 64 * 1024
MAX_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How long a source may take, in seconds, bytes, and bytes per second.

    ``total`` is the time for a small file. Each ``sustained_rate`` bytes received add one second, so a large file gets
    the time that it needs at that rate, and a very slow source is aborted soon after ``total``. ``min_rate`` must be
    kept over every ``min_rate_window``.
    """

    connect: float = 5.0
    read: float = 15.0
    total: float = 120.0
    sustained_rate: int = 256_000
    min_rate: int = 10_000
    min_rate_window: float = 20.0
    max_redirects: int = 3
    max_resumes: int = 3
    resume_delay: float = 0.5


class TransferPace:
    """Applies the limits to one transfer. It has no clock: it is given the time waited and the bytes received."""

    def __init__(self, limits: FetchLimits, *, elapsed: float = 0.0) -> None:
        self._limits = limits
        self._waited, self._bytes = elapsed, 0
        self._window_waited, self._window_bytes = 0.0, 0
        self._idle = 0.0

    def next_timeout(self) -> float:
        """Return how long the next read may wait until a limit has to be checked."""
        limits = self._limits
        return max(
            0.001,
            min(limits.read - self._idle, limits.min_rate_window - self._window_waited, self.remaining()),
        )

    def remaining(self) -> float:
        """Return the seconds that are left of the total time."""
        return self._limits.total + self._bytes / self._limits.sustained_rate - self._waited

    def record(self, seconds: float, received: int) -> None:
        """Count a read; raise :class:`SourceUnavailable` if the source is too slow."""
        self._waited += seconds
        self._bytes += received
        self._window_waited += seconds
        self._window_bytes += received
        self._idle = 0.0 if received else self._idle + seconds
        if self.remaining() <= 0:
            raise SourceUnavailable("the source is too slow", detail=f"{self._bytes} bytes in {self._waited:.1f} s")
        if self._window_waited >= self._limits.min_rate_window:
            if self._window_bytes < self._limits.min_rate * self._window_waited:
                raise SourceUnavailable(
                    "the source is too slow",
                    detail=f"{self._window_bytes} bytes in the last {self._window_waited:.1f} s",
                )
            self._window_waited, self._window_bytes = 0.0, 0

    @property
    def timed_out(self) -> bool:
        """Whether the source has sent nothing for the read timeout."""
        return self._idle >= self._limits.read

    def restart_window(self) -> None:
        """Start a new rate window for a new connection; the total time goes on."""
        self._idle = 0.0
        self._window_waited, self._window_bytes = 0.0, 0


Request = Callable[[Mapping[str, str]], Awaitable[ClientResponse]]
"""Requests the source again, through every check, with these headers added."""


class HttpStream:
    """The body of one response, to be iterated once.

    Chunks are at most 1 MiB, and never more than ``max_bytes`` in all. The iteration ends normally only when the body
    is complete: as long as announced, or properly ended. Otherwise it raises a
    :class:`~bucketline_dedup.errors.SourceError`, and the bytes yielded so far must be discarded.

    With ``decode_content`` a ``Content-Encoding`` is undone, see :mod:`bucketline_dedup.content_coding`, and
    ``content_length`` is None because the length of the decoded content is not known. ``received`` counts the bytes as
    sent.
    """

    def __init__(
        self,
        response: ClientResponse,
        url: CheckedUrl,
        *,
        max_bytes: int,
        limits: FetchLimits,
        elapsed: float,
        request: Request,
        decode_content: bool = True,
    ) -> None:
        self._length = response.content_length
        self._encoding = response.headers.getall("Content-Encoding", [])
        self._codings = codings_of(self._encoding) if decode_content else ()
        self.content_length = None if self._codings else self._length
        self.content_type = _media_type(response.headers.get("Content-Type"))
        self.filename = _filename(response.headers.get("Content-Disposition"), url)
        self.etag = response.headers.get("ETag")
        self.received = 0
        self._response = response
        # Kept because the response drops it at its end, when it is needed.
        self._protocol = response.connection.protocol if response.connection else None
        self._closed = self._connection_closed()
        self._max_bytes = max_bytes
        self._limits = limits
        self._pace = TransferPace(limits, elapsed=elapsed)
        self._request = request
        self._remaining_resumes = limits.max_resumes if self._resumable() else 0
        if self._length is not None and self._length > max_bytes:
            raise SourceTooLarge(max_bytes, detail=f"Content-Length {self._length}")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(self._body()) as chunks:
            content = chunks
            if self._codings:
                content = decode(
                    chunks,
                    self._codings,
                    max_bytes=self._max_bytes,
                    content_type=self.content_type,
                    filename=self.filename,
                )
            async for chunk in content:
                yield chunk

    async def _body(self) -> AsyncGenerator[bytes]:
        """Yield chunks of at least 64 KiB except for the last."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self._read(MAX_CHUNK_BYTES - size):
            pieces.append(piece)
            size += len(piece)
            if size >= MIN_CHUNK_BYTES:
                yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
                pieces, size = [], 0
        if pieces:
            yield b"".join(pieces)

    def close(self) -> None:
        """Close the connection. A body that was read to its end has already returned it to the pool."""
        self._response.close()

    async def _read(self, size: int) -> bytes:
        """Return the next bytes, at most ``size``; empty at the end."""
        while True:
            # One byte above the limit is enough to detect that the body is too large.
            allowed = min(size, self._max_bytes - self.received + 1)
            started = time.monotonic()
            piece, failure = b"", ""
            try:
                async with asyncio.timeout(self._pace.next_timeout()):
                    piece = await self._response.content.read(allowed)
            except TimeoutError:
                self._pace.record(time.monotonic() - started, 0)
                if not self._pace.timed_out:
                    continue
                failure = "read timeout"
            except (ClientError, OSError) as error:
                failure = repr(error)
            if piece:
                self._pace.record(time.monotonic() - started, len(piece))
                self.received += len(piece)
                if self.received > self._max_bytes:
                    raise SourceTooLarge(self._max_bytes, detail="counted")
                return piece
            if self._length is None:
                if failure or (failure := self._connection_error()):
                    raise SourceUnavailable("the transfer was interrupted", detail=failure)
                return b""
            if self.received == self._length:
                self._check_no_more()
                return b""
            await self._resume(failure or f"ended after {self.received} of {self._length} bytes")

    def _resumable(self) -> bool:
        headers = self._response.headers
        ranges = headers.get("Accept-Ranges", "").strip().lower() == "bytes"
        strong = self.etag is not None and self.etag.startswith('"')
        return ranges and strong and self._length is not None

    async def _resume(self, failure: str) -> None:
        self._response.close()
        delay = self._limits.resume_delay
        while self._remaining_resumes > 0 and self.etag is not None:
            self._remaining_resumes -= 1
            started = time.monotonic()
            try:
                async with asyncio.timeout(max(self._pace.remaining(), 0.001)):
                    response = await self._request({"Range": f"bytes={self.received}-", "If-Range": self.etag})
            except (SourceUnavailable, TimeoutError) as error:
                failure = f"{failure}; resuming: {getattr(error, 'detail', '') or error!r}"
                await asyncio.sleep(delay)
                delay *= 2
                self._pace.record(time.monotonic() - started, 0)
                continue
            self._response = response
            self._protocol = response.connection.protocol if response.connection else None
            self._check_continuation(response)
            self._pace.record(time.monotonic() - started, 0)
            self._pace.restart_window()
            return
        raise SourceUnavailable("the transfer was interrupted", detail=failure)

    def _connection_closed(self) -> "asyncio.Future[None] | None":
        """Return the future of the connection's end where that is the end of the body, else None."""
        if self._protocol is None or self._length is not None or self._response.headers.get("Transfer-Encoding"):
            return None
        closed = self._protocol.closed
        if closed is not None:
            # Mark its exception as retrieved in any case.
            closed.add_done_callback(lambda done: done.cancelled() or done.exception())
        return closed

    def _connection_error(self) -> str:
        """Return why the connection ended, or nothing if it was closed in order.

        Without a length aiohttp's parser takes every end of the connection, even a reset, for the end of the body.
        """
        if self._closed is None or not self._closed.done() or self._closed.cancelled():
            return ""
        error = self._closed.exception()
        return repr(error) if error is not None else ""

    def _check_no_more(self) -> None:
        """Raise if bytes followed the announced ones, which makes the parser fail after the end of the body.

        This is best effort: for HTTP the body has ended, and later bytes may arrive after this check.
        """
        error = self._protocol.exception() if self._protocol is not None else None
        if isinstance(error, HttpProcessingError):
            raise SourceUnavailable("the source sent more than it announced", detail=repr(error))

    def _check_continuation(self, response: ClientResponse) -> None:
        total = self._length or 0
        expected = f"bytes {self.received}-{total - 1}/{total}"
        actual = response.headers.get("Content-Range", "").strip()
        unchanged = (
            response.headers.get("ETag") == self.etag
            and response.headers.getall("Content-Encoding", []) == self._encoding
        )
        if response.status != 206 or actual != expected or not unchanged:
            raise SourceUnavailable(
                "the source changed while it was read",
                detail=f"{response.status}, Content-Range {actual!r} instead of {expected!r}",
            )


def _media_type(header: str | None) -> str | None:
    """Return the header with its parameters (``charset`` is used later) if it names a media type."""
    value = (header or "").strip()
    return value if MEDIA_TYPE.fullmatch(value.partition(";")[0].strip().lower()) else None


def _filename(disposition: str | None, url: CheckedUrl) -> str | None:
    """Return the name in ``Content-Disposition`` (RFC 6266), else the last part of the URL's path."""
    named = safe_filename(_disposition_filename(_as_text(disposition))) if disposition else None
    return named or safe_filename(unquote(url.target.partition("?")[0].rpartition("/")[2], errors="replace"))


def _disposition_filename(disposition: str) -> str | None:
    """Return ``filename*`` if it can be decoded, else ``filename``.

    The parser of :mod:`email` is lenient: unlike those of aiohttp and Werkzeug it accepts unquoted blanks and commas,
    and backslashes of paths. But it knows no precedence between the two parameters.
    """
    message = Message()
    message["Content-Disposition"] = disposition
    try:
        values = [
            value
            for name, value in message.get_params([], header="Content-Disposition")
            if name.lower() == "filename" and value
        ]
    except (LookupError, TypeError, ValueError):  # malformed continuations of RFC 2231
        return None
    plain = next((value for value in values if isinstance(value, str)), None)
    extended = next((value for value in values if not isinstance(value, str)), None)
    if extended is not None:
        try:
            codecs.lookup(extended[0] or "")
            return collapse_rfc2231_value(extended, errors="strict")
        except (LookupError, ValueError):
            if plain is None:
                return collapse_rfc2231_value(extended)
    return _decode_words(plain) if plain else None


def _decode_words(name: str) -> str:
    """Decode the encoded words of RFC 2047, which HTTP does not allow but servers send and browsers read."""
    if "=?" not in name:
        return name
    try:
        return str(make_header(decode_header(name)))
    except (LookupError, ValueError):
        return name


def _as_text(value: str) -> str:
    """Decode a header: UTF-8, else Windows-1252, as browsers read Latin-1. aiohttp escapes bytes that are not UTF-8."""
    raw = value.encode("utf-8", "surrogateescape")
    for charset in ("utf-8", "cp1252"):
        try:
            return raw.decode(charset)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")
