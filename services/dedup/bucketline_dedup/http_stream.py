"""One HTTP body on its way in: bounded, paced, counted, and resumed where the source allows it.

Only time spent *waiting for the source* counts against it. A consumer that takes its time (an S3 upload) slows
the source down through TCP, and must not make it look slow.
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
from bucketline_dedup.content_coding import codings_of, decode
from bucketline_dedup.errors import SourceError, SourceNotFound, SourceTooLarge, SourceUnavailable, SourceUnreadable
from bucketline_dedup.media_type_tables import MEDIA_TYPE
from bucketline_dedup.url_guard import CheckedUrl

MIN_CHUNK_BYTES = 64 * 1024
MAX_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How long a source may take. Seconds, bytes, and bytes a second.

    ``total`` is the whole allowance of a small file. Each ``sustained_rate`` bytes that arrived earn one more
    second, so a large file has the time it needs at that speed and a dripping one is ended soon after
    ``total``. ``min_rate`` must be kept over every ``min_rate_window``.
    """

    connect: float = 5.0
    read: float = 15.0
    total: float = 120.0
    sustained_rate: int = 256_000
    min_rate: int = 10_000
    min_rate_window: float = 20.0
    max_resumes: int = 3
    resume_delay: float = 0.5


class Pace:
    """The clock of one transfer. Pure: it is told how long was waited for how many bytes."""

    def __init__(self, limits: FetchLimits, *, spent: float = 0.0) -> None:
        self._limits = limits
        self._waited, self._bytes = spent, 0
        self._window_waited, self._window_bytes = 0.0, 0
        self._idle = 0.0

    def patience(self) -> float:
        """How long the next read may wait until something has to be decided."""
        limits = self._limits
        return max(
            0.001,
            min(limits.read - self._idle, limits.min_rate_window - self._window_waited, self.remaining()),
        )

    def remaining(self) -> float:
        return self._limits.total + self._bytes / self._limits.sustained_rate - self._waited

    def waited(self, seconds: float, received: int) -> None:
        """Raise :class:`SourceUnavailable` when the source is too slow."""
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
    def silent(self) -> bool:
        """Nothing came for as long as one read may take."""
        return self._idle >= self._limits.read

    def resumed(self) -> None:
        """A new connection starts with fresh patience; the allowance as a whole goes on."""
        self._idle = 0.0
        self._window_waited, self._window_bytes = 0.0, 0


Request = Callable[[Mapping[str, str]], Awaitable[tuple[ClientResponse, CheckedUrl]]]
"""Ask the source again, through every check, with these headers added."""


class HttpStream:
    """The body of one answer, to be iterated once.

    Chunks are at most 1 MiB. Never more than ``max_bytes`` are handed on. The iteration ends normally only when the
    body is complete: as long as announced, or properly ended. Otherwise it raises a :class:`SourceError`, and what was
    handed on so far is worthless.

    With ``decode_content`` a ``Content-Encoding`` is undone on the way, see :mod:`bucketline_dedup.content_coding`.
    ``content_length`` is None then: that of the content is not known. ``received`` counts the bytes as they were sent.
    """

    def __init__(
        self,
        response: ClientResponse,
        url: CheckedUrl,
        *,
        max_bytes: int,
        limits: FetchLimits,
        spent: float,
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
        # held here because the answer lets go of it at its end, just when it is asked about
        self._protocol = response.connection.protocol if response.connection else None
        self._end = self._end_of_connection()
        self._max_bytes = max_bytes
        self._limits = limits
        self._pace = Pace(limits, spent=spent)
        self._request = request
        self._resumes_left = limits.max_resumes if self._resumable() else 0
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
        """Chunks of at least 64 KiB but for the last."""
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
        """Give the connection up. A body that was read to its end has already returned it to the pool."""
        self._response.close()

    async def _read(self, most: int) -> bytes:
        """The next bytes, or nothing at the end."""
        while True:
            # one byte above the limit is enough to know
            wanted = min(most, self._max_bytes - self.received + 1)
            began = time.monotonic()
            piece, broken = b"", ""
            try:
                async with asyncio.timeout(self._pace.patience()):
                    piece = await self._response.content.read(wanted)
            except TimeoutError:
                self._pace.waited(time.monotonic() - began, 0)
                if not self._pace.silent:
                    continue
                broken = "silence"
            except (ClientError, OSError) as error:
                broken = repr(error)
            if piece:
                self._pace.waited(time.monotonic() - began, len(piece))
                self.received += len(piece)
                if self.received > self._max_bytes:
                    raise SourceTooLarge(self._max_bytes, detail="counted")
                return piece
            if self._length is None:
                if broken or (broken := self._reset()):
                    raise SourceUnavailable("the transfer was interrupted", detail=broken)
                return b""
            if self.received == self._length:
                self._check_no_more()
                return b""
            await self._resume(broken or f"ended after {self.received} of {self._length} bytes")

    def _resumable(self) -> bool:
        headers = self._response.headers
        ranges = headers.get("Accept-Ranges", "").strip().lower() == "bytes"
        strong = self.etag is not None and self.etag.startswith('"')
        return ranges and strong and self._length is not None

    async def _resume(self, why: str) -> None:
        self._response.close()
        delay = self._limits.resume_delay
        while self._resumes_left > 0 and self.etag is not None:
            self._resumes_left -= 1
            began = time.monotonic()
            try:
                async with asyncio.timeout(max(self._pace.remaining(), 0.001)):
                    response, _ = await self._request({"Range": f"bytes={self.received}-", "If-Range": self.etag})
            except (SourceUnavailable, TimeoutError) as error:
                why = f"{why}; resuming: {getattr(error, 'detail', '') or error!r}"
                await asyncio.sleep(delay)
                delay *= 2
                self._pace.waited(time.monotonic() - began, 0)
                continue
            self._response = response
            self._protocol = response.connection.protocol if response.connection else None
            self._check_continuation(response)
            self._pace.waited(time.monotonic() - began, 0)
            self._pace.resumed()
            return
        raise SourceUnavailable("the transfer was interrupted", detail=why)

    def _end_of_connection(self) -> "asyncio.Future[None] | None":
        """What will tell how the connection ended, where its end is the end of the body."""
        if self._protocol is None or self._length is not None or self._response.headers.get("Transfer-Encoding"):
            return None
        end = self._protocol.closed
        if end is not None:
            # asked or not, its exception counts as seen
            end.add_done_callback(lambda done: done.cancelled() or done.exception())
        return end

    def _reset(self) -> str:
        """Why the end of the connection was not that of the body: the parser takes every end for one, a reset too.

        Empty where it was closed in order, which is all that can be known then.
        """
        if self._end is None or not self._end.done() or self._end.cancelled():
            return ""
        error = self._end.exception()
        return repr(error) if error is not None else ""

    def _check_no_more(self) -> None:
        """Bytes right behind the announced ones make the parser fail, after it has ended the body.

        Noticed as a rule, not always: for HTTP the body is over, and what comes later (or was followed by the
        close of the connection before this is asked) belongs to nobody.
        """
        error = self._protocol.exception() if self._protocol is not None else None
        if isinstance(error, HttpProcessingError):
            raise SourceUnavailable("the source sent more than it announced", detail=repr(error))

    def _check_continuation(self, response: ClientResponse) -> None:
        total = self._length or 0
        expected = f"bytes {self.received}-{total - 1}/{total}"
        found = response.headers.get("Content-Range", "").strip()
        same = (
            response.headers.get("ETag") == self.etag
            and response.headers.getall("Content-Encoding", []) == self._encoding
        )
        if response.status != 206 or found != expected or not same:
            raise SourceUnavailable(
                "the source changed while it was read",
                detail=f"{response.status}, Content-Range {found!r} instead of {expected!r}",
            )


def check_transfer_coding(response: ClientResponse) -> None:
    """Refuse a transfer coding other than chunked. It was not asked for, and aiohttp does not undo it."""
    transfer = response.headers.get("Transfer-Encoding", "").strip().lower()
    if transfer not in {"", "chunked", "identity"}:
        raise SourceUnreadable("the source sent a transfer encoding that was not asked for", detail=repr(transfer))


def status_error(status: int, retry_after_seconds: float | None) -> SourceError | None:
    """What an answer other than the content means; None for the content itself."""
    if status in {200, 203, 206}:
        return None
    detail = f"status {status}"
    if status in {404, 410}:
        return SourceNotFound(detail=detail)
    if status >= 500 or status in {408, 416, 425, 429}:
        return SourceUnavailable(
            f"the source answered {status}", detail=detail, retry_after_seconds=retry_after_seconds
        )
    return SourceUnreadable(f"the source answered {status}", detail=detail)


def _media_type(header: str | None) -> str | None:
    """Return the header with its parameters, of which ``charset`` counts, where it names a media type."""
    value = (header or "").strip()
    return value if MEDIA_TYPE.fullmatch(value.partition(";")[0].strip().lower()) else None


def _filename(disposition: str | None, url: CheckedUrl) -> str | None:
    """The name in ``Content-Disposition`` (RFC 6266), else the last part of the URL's path."""
    named = safe_filename(_disposition_filename(_as_text(disposition))) if disposition else None
    return named or safe_filename(unquote(url.target.partition("?")[0].rpartition("/")[2], errors="replace"))


def _disposition_filename(disposition: str) -> str | None:
    """``filename*`` if it can be read, else ``filename``.

    The parser of :mod:`email` is the lenient one: it takes unquoted blanks and commas, and backslashes of paths, which
    those of aiohttp and Werkzeug do not. But it knows no order between the two parameters.
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
    """Undo the encoded words of RFC 2047, which do not belong in HTTP but are sent, and read by browsers."""
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
